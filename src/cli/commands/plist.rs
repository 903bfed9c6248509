//! `mlxctl plist`

use std::path::PathBuf;

use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::service::difference::{Difference, differences};
use crate::service::launchd::Job;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show how this file differs and why it matters; exit 1 if it does
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Path of the mlxctl binary launchd should run [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Prints the property list, or how a file differs from it.
///
/// # Errors
/// An invalid registry (2); a file that cannot be read or differs (1).
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let job = Job::new(
        &registry.agent,
        &super::agent::program(args.program.as_deref())?,
        &super::agent::absolute(&context.config)?,
    );
    let unwritable = |error: plist::Error| CliError::failed("the property list cannot be written").why(error);
    let Some(file) = &args.check else {
        return context.output.data(&job.to_xml().map_err(unwritable)?);
    };
    let write = || format!("mlxctl plist > {}", file.display());
    let bytes = std::fs::read(file).map_err(|error| {
        CliError::failed(format!("cannot read {}", file.display())).why(error).hint(write())
    })?;
    // The parser's own message is meant for programmers.
    let found = plist::from_bytes(&bytes).map_err(|_| {
        CliError::failed(format!("{} is not a property list (a dictionary)", file.display()))
            .why("it is neither XML nor Apple's binary format")
            .hint(write())
    })?;
    let found = differences(&job.to_dictionary().map_err(unwritable)?, &found);
    if found.is_empty() {
        return context.output.data(&format!("{} matches the registry", file.display()));
    }
    context.output.data(&table(&found))?;
    let keys =
        if found.len() == 1 { "1 key differs".to_owned() } else { format!("{} keys differ", found.len()) };
    Err(CliError::new(Exit::Failed, format!("{}: {keys} from {}", file.display(), context.config.display()))
        .hint("mlxctl agent install      to write and load the one from the registry"))
}

/// One paragraph per key that differs.
fn table(found: &[Difference]) -> String {
    let paragraphs: Vec<String> = found
        .iter()
        .map(|difference| {
            format!(
                "{}\n  file      {}\n  registry  {}\n  so        {}\n",
                difference.key,
                difference.file.as_deref().unwrap_or("-"),
                difference.registry.as_deref().unwrap_or("-"),
                difference.why
            )
        })
        .collect();
    paragraphs.join("\n")
}
