//! `mlxctl use <model> <repo>`

use super::estimate::describe;
use crate::backend::weights;
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cli::remote::unknown_model;
use crate::registry::{EditError, use_repo};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, by name or alias
    model: String,
    /// One of its alternatives in the registry
    repo: String,
}

/// Switches the model in the registry's file.
///
/// # Errors
/// Exit 4 for an unknown model, 2 for a repository that is not offered or an invalid registry, 1 if the file cannot be
/// written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let change =
        use_repo(&context.config, &args.model, &args.repo).map_err(|error| failure(context, error))?;
    if change.from == change.to {
        return context.output.data(&format!("{} already uses {}", change.model, change.to));
    }
    context.output.data(&format!("{}: {} -> {}", change.model, change.from, change.to))?;
    if change.size_declared {
        context.output.say(&format!(
            "note: the registry's size was declared for {}; it is used until the new files are downloaded",
            change.from
        ));
    }
    let name = &change.model;
    let registry = context.registry()?;
    let model = registry.model(name).ok();
    let here = model.is_some_and(|model| weights::folder(&model.source).is_some());
    if let Some(model) = model {
        describe(context, &registry, model);
    }
    let first = if here { String::new() } else { format!("mlxctl pull {name} && ") };
    if !here {
        context.output.say(&format!(
            "note: {} is not downloaded; if {name} is running it keeps running, but it cannot be restarted before that",
            change.to
        ));
    }
    context.output.say(&format!("to apply it: {first}mlxctl reload && mlxctl restart {name}"));
    Ok(())
}

fn failure(context: &Context, error: EditError) -> CliError {
    let what = error.to_string();
    match error {
        EditError::Invalid(problems) => context.broken(&problems),
        EditError::Unknown(unknown) => match context.registry() {
            Ok(registry) => unknown_model(&registry, &unknown),
            Err(broken) => broken,
        },
        EditError::NotOffered { model, offered, .. } if offered.is_empty() => {
            CliError::new(Exit::Usage, what)
                .why(format!("`{model}` has no alternatives"))
                .hint(format!("add them in {}: alternatives = [\"org/name\"]", context.config.display()))
        }
        EditError::NotOffered { offered, .. } => {
            CliError::new(Exit::Usage, what).hint(format!("one of: {}", offered.join(", ")))
        }
        EditError::Shape(_) => {
            CliError::failed(what).hint(format!("change `repo` by hand in {}", context.config.display()))
        }
        EditError::Write(why) => CliError::failed(what)
            .why(format!("{}: {why}", context.config.display()))
            .hint("make the file and its folder writable for your user"),
    }
}
