//! Checks that everything a start needs is there: the environment and the model's files.

use std::path::PathBuf;

use super::files;
use crate::api::HeldBack;
use crate::backend::weights;
use crate::folders;
use crate::lifecycle::{Failure, FailureKind};
use crate::python::tiny;
use crate::python::venv::{self, SetupRequest};
use crate::registry::{Model, Registry, Source};
use crate::units::Bytes;

/// What a start needs, after it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub python: PathBuf,
    /// The value of `--model`.
    pub served: String,
    /// The GPU limit that `mlxctl setup` noted.
    pub gpu_limit: Option<Bytes>,
}

/// The value of `--model`, whether it exists or not.
fn served(source: &Source) -> String {
    match source {
        // The folder that `mlxctl models` shows, so that Python does not look it up again.
        Source::Hub(repo) => {
            weights::folder(source).map_or_else(|| repo.clone(), |found| found.display().to_string())
        }
        Source::Folder(folder) => folder.display().to_string(),
        Source::Tiny => tiny::location(&folders::cache()).display().to_string(),
    }
}

/// Finds what a start needs; costs a few `stat`s.
pub(crate) fn prepare(registry: &Registry, model: &Model) -> Result<Prepared, Failure> {
    let missing = |text: String, hint: &str| Failure::new(FailureKind::NotPrepared, text).hint(hint);
    let environment = venv::existing(&SetupRequest::to_look(registry))
        .map_err(|not_ready| missing(not_ready.why, &not_ready.hint))?;
    files::present(model)?;
    let venv::Environment { python, gpu_limit, .. } = environment;
    Ok(Prepared { python, served: served(&model.source), gpu_limit })
}

/// What a start of this model would lack, and what to do about it.
pub(crate) fn missing(registry: &Registry, model: &Model) -> Option<HeldBack> {
    let Failure { text, hint, .. } = prepare(registry, model).err()?;
    Some(HeldBack { reason: text, hint: hint.unwrap_or_default() })
}
