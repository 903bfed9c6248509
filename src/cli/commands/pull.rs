//! `mlxctl pull [<model>…]`

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::estimate::describe;
use super::setup::{ensure, tiny_model};
use crate::cli::Context;
use crate::cli::error::{CliError, Exit, no_signal_handlers};
use crate::cli::parse::duration;
use crate::cli::remote::unknown_model;
use crate::cli::render::human;
use crate::cli::several::each;
use crate::cli::transfer::Transfer;
use crate::python::pull::{Kind, PullError, PullRequest, pull};
use crate::python::venv::{Environment, SetupRequest};
use crate::python::whole::{self, Flaw, Whole};
use crate::registry::{Model, Registry, Source};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Models, by name or alias [default: every model in the registry]
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Also re-read the files that are already there, and download damaged ones again
    #[arg(long)]
    verify: bool,
    /// Give up after this long without receiving anything (90s, 5m)
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    timeout: Duration,
}

/// Downloads each model's files, and those of its draft model, into the cache that backends read, and verifies them.
///
/// # Errors
/// Exit 75 if the disk is too small, before the first byte; 4 for an unknown model; 1 for a download that failed, which
/// the next pull resumes.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let named = |name: &String| registry.model(name).map_err(|unknown| unknown_model(&registry, &unknown));
    // A typo in the last name is found before hours of downloading.
    for name in &args.models {
        named(name)?;
    }
    let every = registry.models.iter().map(|model| model.name.clone());
    let names = if args.models.is_empty() { every.collect() } else { args.models.clone() };
    let (mut environment, stop) = (None, Arc::new(AtomicBool::new(false)));
    each(
        context,
        &names,
        || stop.load(Relaxed),
        |name| {
            let model = named(&name.to_owned())?;
            one(context, args, &registry, model, &mut environment, &stop)
        },
    )
}

fn one(
    context: &Context,
    args: &Args,
    registry: &Registry,
    model: &Model,
    environment: &mut Option<Environment>,
    stop: &Arc<AtomicBool>,
) -> Result<(), CliError> {
    for source in std::iter::once(model.source.clone()).chain(draft(model)) {
        let whole = match &source {
            Source::Folder(folder) => check(folder)?,
            Source::Tiny => check(&tiny_model(&context.output, made(context, registry, environment)?)?)?,
            Source::Hub(repo) => {
                let environment = made(context, registry, environment)?;
                fetch(context, args, model, repo, environment, stop)?
            }
        };
        context.output.data(&summary(&model.name, &source, &whole))?;
    }
    describe(context, registry, model);
    Ok(())
}

/// The environment, created when it is first needed.
fn made<'a>(
    context: &Context,
    registry: &Registry,
    environment: &'a mut Option<Environment>,
) -> Result<&'a Environment, CliError> {
    if environment.is_none() {
        *environment = Some(ensure(&context.output, &SetupRequest::new(registry, false))?);
    }
    environment.as_ref().ok_or_else(|| CliError::failed("there is no Python environment yet"))
}

/// Its draft model, which a backend that runs offline needs as well.
fn draft(model: &Model) -> Option<Source> {
    let name = model.server.draft_model.as_ref()?;
    Some(if name.starts_with('/') { Source::Folder(name.into()) } else { Source::Hub(name.clone()) })
}

fn check(folder: &Path) -> Result<Whole, CliError> {
    whole::check(folder).map_err(|flaw| {
        let hint = match &flaw {
            Flaw::Code(_) => code_hint(),
            Flaw::Unserved(_) => unserved_hint(),
            Flaw::Damaged { .. } => "correct `repo` in the registry, or complete the folder".to_owned(),
        };
        CliError::failed(format!("{} cannot be served", folder.display())).why(flaw).hint(hint)
    })
}

fn fetch(
    context: &Context,
    args: &Args,
    model: &Model,
    repo: &str,
    environment: &Environment,
    stop: &Arc<AtomicBool>,
) -> Result<Whole, CliError> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).map_err(no_signal_handlers)?;
    }
    let request = PullRequest {
        python: environment.python.clone(),
        repo: repo.to_owned(),
        patience_seconds: args.timeout.as_secs_f64(),
        verify: args.verify,
    };
    let mut shown = Transfer::new(&context.output, &model.name, repo);
    let done = pull(&request, stop, &mut |step| shown.show(&step));
    drop(shown);
    done.map_err(|error| explain(&error, &model.name))
}

fn summary(model: &str, source: &Source, whole: &Whole) -> String {
    let Whole { folder, shards, tensors, weights } = whole;
    let number = |count: &usize, one| human::count(u64::try_from(*count).unwrap_or(u64::MAX), one);
    let (files, tensors) = (number(shards, "file"), number(tensors, "tensor"));
    format!(
        "{model}  {source}\n  weights   {weights} in {files}, {tensors}\n  folder    {}\n  verified",
        folder.display()
    )
}

fn code_hint() -> String {
    "take another model; if you have read that code and trust it, put a copy without `model_file` in a folder and \
     name that as `repo`"
        .to_owned()
}

fn unserved_hint() -> String {
    "use another model, or try a newer mlx-lm: mlxctl setup --upgrade".to_owned()
}

fn explain(error: &PullError, model: &str) -> CliError {
    let again = format!("mlxctl pull {model}");
    match error {
        PullError::Interrupted => CliError::failed(error.to_string())
            .why("the part downloaded so far stays in the cache")
            .hint(format!("{again} to resume")),
        PullError::NoRoom { needed, free, cache, .. } => CliError::new(Exit::Refused, error.to_string())
            .why(format!(
                "{needed} remain to be downloaded, {} has {free} free, and 1 GB must stay free; nothing was downloaded",
                cache.display()
            ))
            .hint("free some space, or set HF_HOME to a folder on another disk, here and in `environment` of [agent]"),
        PullError::Flawed { flaw, .. } => {
            let hint = match flaw {
                Flaw::Code(_) => code_hint(),
                Flaw::Unserved(_) => unserved_hint(),
                Flaw::Damaged { .. } => format!("{again} --verify to check the files again; otherwise use another model"),
            };
            CliError::failed(error.to_string()).why(flaw).hint(hint)
        }
        PullError::Failed { kind, why, token, .. } => {
            CliError::failed(error.to_string()).why(why_of(*kind, why)).hint(hint(*kind, *token, &again))
        }
    }
}

fn why_of(kind: Kind, why: &str) -> String {
    let meaning = match kind {
        Kind::Offline => "HF_HUB_OFFLINE is set",
        Kind::Gated => "its licence must be accepted on the hub first",
        Kind::NotFound => "the hub has no such model, or the model is private",
        Kind::Unauthorized => "the hub denies access with this token (or without one)",
        Kind::Hub => "the hub answered with an error",
        Kind::Network => "the hub cannot be reached",
        Kind::Portal => {
            "something else answered instead of the hub, such as a network's sign-in page or a proxy"
        }
        Kind::DiskFull => "the disk is full",
        Kind::Busy | Kind::Damaged | Kind::Io | Kind::Unknown => return why.to_owned(),
    };
    format!("{meaning}\n{why}")
}

fn hint(kind: Kind, token: bool, again: &str) -> String {
    match kind {
        Kind::Offline => format!("unset HF_HUB_OFFLINE; {again}"),
        Kind::Gated if token => {
            "accept the licence on the model's page with the account of the token".to_owned()
        }
        Kind::Gated | Kind::Unauthorized if !token => {
            format!("set HF_TOKEN to the token of an account that may read it, then {again}")
        }
        Kind::Gated | Kind::Unauthorized => "set HF_TOKEN to a token that may read it".to_owned(),
        Kind::NotFound if token => {
            "check `repo` in the registry, and whether the token may read it".to_owned()
        }
        Kind::NotFound => "check `repo` in the registry; a private one needs HF_TOKEN".to_owned(),
        Kind::Hub => format!("try again later: {again}; check HF_ENDPOINT if it is set"),
        Kind::Network => {
            format!("check the network (HTTPS_PROXY, HF_ENDPOINT); {again} to resume")
        }
        Kind::Portal => format!(
            "open a web page in a browser to sign in to the network, check HF_ENDPOINT and HTTPS_PROXY, then {again}"
        ),
        Kind::DiskFull => format!("free some space; {again} to resume"),
        Kind::Busy => "wait for it to end".to_owned(),
        Kind::Damaged => {
            format!(
                "{again} to download it again; if that fails the same way, something between here and the hub changes it"
            )
        }
        Kind::Io => "check the owner and mode of the cache folder (HF_HOME)".to_owned(),
        Kind::Unknown => "mlxctl setup --verify to check the environment".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    #[test]
    fn a_disk_that_is_too_small_is_refused_for_now_with_both_sizes() {
        let error = PullError::NoRoom {
            repo: "org/name".to_owned(),
            needed: Bytes::gb(18),
            free: Bytes::gb(12),
            cache: "/cache".into(),
        };
        let error = explain(&error, "32b");
        assert_eq!(error.exit, Exit::Refused);
        let why = error.why.unwrap();
        assert!(why.contains("18.0 GB") && why.contains("12.0 GB") && why.contains("/cache"), "{why}");
    }

    #[test]
    fn a_locked_model_is_explained_by_what_was_sent() {
        assert!(hint(Kind::Gated, false, "").contains("HF_TOKEN"));
        assert!(hint(Kind::Gated, true, "").contains("accept"));
        assert!(hint(Kind::Unauthorized, true, "").contains("that may read it"));
        assert!(hint(Kind::NotFound, false, "").contains("private"));
    }
}
