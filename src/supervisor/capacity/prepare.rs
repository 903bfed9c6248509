//! Whether everything is there that a start needs: the environment and the model's files.

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

/// What a start needs, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub python: PathBuf,
    /// What `--model` names.
    pub served: String,
    /// What the venv's setup was told that the GPU may hold.
    pub gpu_limit: Option<Bytes>,
}

/// What `--model` names, whether it is there or not.
fn served(source: &Source) -> String {
    match source {
        // The very folder that `mlxctl models` shows: Python is not asked to find it once more.
        Source::Hub(repo) => {
            weights::folder(source).map_or_else(|| repo.clone(), |found| found.display().to_string())
        }
        Source::Folder(folder) => folder.display().to_string(),
        Source::Tiny => tiny::location(&folders::cache()).display().to_string(),
    }
}

/// Looks for what a start needs. Cheap: a few `stat`s.
pub(crate) fn prepare(registry: &Registry, model: &Model) -> Result<Prepared, Failure> {
    let missing = |text: String, hint: &str| Failure::new(FailureKind::NotPrepared, text).hint(hint);
    let environment = venv::existing(&SetupRequest::to_look(registry))
        .map_err(|not_ready| missing(not_ready.why, &not_ready.hint))?;
    files::present(model)?;
    let venv::Environment { python, gpu_limit, .. } = environment;
    Ok(Prepared { python, served: served(&model.source), gpu_limit })
}

/// What a start of this model would not find, and what to do about it.
pub(crate) fn missing(registry: &Registry, model: &Model) -> Option<HeldBack> {
    let Failure { text, hint, .. } = prepare(registry, model).err()?;
    Some(HeldBack { reason: text, hint: hint.unwrap_or_default() })
}
