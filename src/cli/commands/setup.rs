//! `mlxctl setup`

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::estimate::describe;
use super::serve::runtime;
use crate::backend::trial;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::python::venv::{self, Environment, SetupError, SetupRequest, Step, Trial, Upgraded};
use crate::python::{lock_file, tiny};
use crate::registry::{Registry, Source, check_owners};
use crate::{folders, host};

/// How long a new environment may take to serve the tiny model; a cold disk and a first import included.
const TRIAL: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Verify the environment again even if it was verified before
    #[arg(long)]
    verify: bool,
    /// Create an environment with the newest packages next to the old one, try it, and switch to it
    #[arg(long, conflicts_with_all = ["verify", "rollback"])]
    upgrade: bool,
    /// Switch back to the environment used before the last upgrade
    #[arg(long, conflicts_with = "verify")]
    rollback: bool,
}

/// Creates or repairs the virtual environment, makes the built-in model if the registry serves it, and prints versions.
///
/// # Errors
/// What could not be created, why, and what to do.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let open = check_owners(&registry);
    if !open.is_empty() {
        return Err(context.broken(&open));
    }
    let request = SetupRequest::new(&registry, args.verify);
    let environment = if args.upgrade {
        upgrade(context, &registry, &request)?
    } else if args.rollback {
        rollback(context, &request)?
    } else {
        ensure(&context.output, &request)?
    };
    let lock = lock_file::write(&registry.paths.state, &environment.resolved)
        .map_err(|error| CliError::failed("cannot record the installed packages").why(error))?;
    if registry.models.iter().any(|model| model.source == Source::Tiny) {
        tiny_model(&context.output, &environment)?;
    }
    for model in &registry.models {
        describe(context, &registry, model);
    }
    context.output.data(&summary(&environment, &lock))
}

fn upgrade(context: &Context, registry: &Registry, request: &SetupRequest) -> Result<Environment, CliError> {
    let output = &context.output;
    let serve = |environment: &Environment| serve_once(output, environment);
    let trial = Trial { serve: &serve, users: &users };
    let done = with_progress(output, |progress| venv::upgrade(request, &trial, progress))?;
    let Upgraded { environment, before, switched } = done;
    if !switched {
        output.say("no newer packages match the registry; the environment is unchanged");
        return Ok(environment);
    }
    for line in changes(&before.unwrap_or_default(), &environment.resolved) {
        output.say(&line);
    }
    told_of_running(output, registry);
    Ok(environment)
}

fn rollback(context: &Context, request: &SetupRequest) -> Result<Environment, CliError> {
    let output = &context.output;
    let trial = Trial { serve: &|_| Ok(()), users: &users };
    let environment = with_progress(output, |progress| venv::rollback(request, &trial, progress))?;
    output.say("restored the environment used before the last upgrade");
    if let Some(outdated) = &environment.outdated {
        output.say(&format!("note: {outdated}; `mlxctl setup` would install that"));
    }
    output.say("running models keep their environment until `mlxctl restart`");
    Ok(environment)
}

fn told_of_running(output: &Output, registry: &Registry) {
    let names: Vec<String> =
        registry.models.iter().map(|model| format!("mlxctl restart {}", model.name)).collect();
    output.say(&format!("running models keep the previous environment until: {}", names.join("; ")));
    output.say("to undo: mlxctl setup --rollback");
}

/// The pids of processes that run from a folder.
fn users(folder: &Path) -> Vec<i32> {
    let marker = format!("{}/bin/", folder.display());
    host::system().find_by_argument(&marker).into_iter().map(|found| found.who.pid).collect()
}

/// Generates one token with the tiny model and the real server.
fn serve_once(output: &Output, environment: &Environment) -> Result<(), String> {
    let words = |error: CliError| format!("{}: {}", error.what, error.why.unwrap_or_default());
    let model = tiny_model(output, environment).map_err(words)?;
    runtime().map_err(words)?.block_on(trial::one_token(&environment.python, &model, TRIAL))
}

/// What was updated, added or removed, one line per package.
fn changes(before: &[String], after: &[String]) -> Vec<String> {
    let split = |list: &[String]| -> std::collections::BTreeMap<String, String> {
        let pairs = list.iter().filter_map(|package| package.split_once("=="));
        pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
    };
    let (old, new) = (split(before), split(after));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let change = |name: &String| match (old.get(name), new.get(name)) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => Some(format!("{name} {old} -> {new}")),
        (None, Some(new)) => Some(format!("{name} {new} added")),
        (Some(old), None) => Some(format!("{name} {old} removed")),
        (None, None) => None,
    };
    names.into_iter().filter_map(change).collect()
}

/// The built-in model, made if it is missing, with one line per step on stderr.
///
/// # Errors
/// Why it could not be made.
pub(crate) fn tiny_model(output: &Output, environment: &Environment) -> Result<PathBuf, CliError> {
    tiny::ensure(environment, &folders::cache(), &mut |line| output.say(&format!("tiny model    {line}")))
        .map_err(|error| CliError::failed("cannot make the built-in tiny model").why(error))
}

/// The environment of `request`, created if it is missing, with progress on stderr.
///
/// # Errors
/// What could not be created, why, and what to do.
pub(crate) fn ensure(output: &Output, request: &SetupRequest) -> Result<Environment, CliError> {
    with_progress(output, |progress| venv::setup(request, progress))
}

/// Runs `work`, which may take minutes, with its steps on stderr.
fn with_progress<T>(
    output: &Output,
    work: impl FnOnce(&mut dyn FnMut(Step)) -> Result<T, SetupError>,
) -> Result<T, CliError> {
    let bar = output.interactive.then(|| {
        let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}");
        let bar =
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    let done = work(&mut |step| {
        let (text, detail) = words(&step);
        match &bar {
            Some(bar) if output.verbose == 0 => bar.set_message(text),
            Some(bar) => bar.println(text),
            None if !detail || output.verbose > 0 => output.say(&text),
            None => {}
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    done.map_err(|error| failure(&error))
}

/// A step as a line, and whether it is a detail that only `-v` shows.
fn words(step: &Step) -> (String, bool) {
    match step {
        Step::Waiting => ("waiting for another `mlxctl setup` to finish".to_owned(), false),
        Step::Creating(found) => {
            let version = found.probe.version_text();
            (format!("creating the environment with Python {version} ({})", found.path.display()), false)
        }
        Step::Adopting => ("using the existing environment".to_owned(), false),
        Step::Discarding(why) => (format!("recreating the environment: {why}"), false),
        Step::Installing(packages) => (format!("installing {}", packages.join(" ")), false),
        Step::Output(line) => (line.clone(), true),
        Step::Verifying => ("importing everything".to_owned(), false),
        Step::Trying => ("testing it with the tiny model".to_owned(), false),
    }
}

fn failure(error: &SetupError) -> CliError {
    let failed = CliError::failed(error.to_string()).hint(error.hint());
    match error.why() {
        Some(why) => failed.why(why),
        None => failed,
    }
}

fn summary(environment: &Environment, lock: &Path) -> String {
    let versions = &environment.versions;
    [
        ("python", versions.python.clone()),
        ("mlx", versions.mlx.clone()),
        ("mlx-lm", versions.mlx_lm.clone()),
        ("transformers", versions.transformers.clone()),
        ("interpreter", environment.python.display().to_string()),
        ("lock file", lock.display().to_string()),
    ]
    .into_iter()
    // Only Metal reports it, so only a Mac has it.
    .chain(environment.gpu_limit.map(|limit| ("GPU limit", format!("{limit} (macOS's default)"))))
    .map(|(name, value)| format!("{name:<12}  {value}\n"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::diagnose::Diagnosis;

    #[test]
    fn an_upgrade_lists_its_changes_package_by_package() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let told =
            changes(&list("mlx==0.32.4 idna==3.1 rich==1.0"), &list("mlx==0.33.0 idna==3.1 h11==0.16"));
        assert_eq!(told, ["h11 0.16 added", "mlx 0.32.4 -> 0.33.0", "rich 1.0 removed"]);
    }

    #[test]
    fn a_failed_installation_says_what_why_and_what_to_do() {
        let why = "ERROR: [Errno 28] No space left on device".to_owned();
        let error =
            failure(&SetupError::Install(Diagnosis { why: why.clone(), hint: "free some".to_owned() }));
        assert_eq!(error.what, "the packages could not be installed");
        assert_eq!((error.why, error.hint.as_deref()), (Some(why), Some("free some")));
    }
}
