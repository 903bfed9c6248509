//! Where a model's files are, and what they say about memory.

use std::path::{Path, PathBuf};

use crate::folders;
use crate::memory::files::read_profiled;
use crate::memory::{ModelFiles, Problem};
use crate::python::profile::Profiles;
use crate::python::{hub, tiny};
use crate::registry::{Model, Source};

/// The files of `model`, with its profile where there is one; its declared size for as long as they are not there, or not all of them.
///
/// # Errors
/// The [`Problem`] that makes files which are there unusable.
pub fn of_model(model: &Model, profiles: &Profiles) -> Result<ModelFiles, Problem> {
    let declared = model.size.map_or(ModelFiles::Unknown, ModelFiles::Declared);
    read(folder(&model.source), profiles, declared)
}

/// The files of the draft model, if `model` has one.
///
/// # Errors
/// As [`of_model`].
pub fn of_draft(model: &Model, profiles: &Profiles) -> Result<Option<ModelFiles>, Problem> {
    let folder = draft_folder(model);
    if model.server.draft_model.is_none() {
        return Ok(None);
    }
    read(folder, profiles, ModelFiles::Unknown).map(Some)
}

/// The folder of the draft model, if there is one and it is whole.
#[must_use]
pub fn draft_folder(model: &Model) -> Option<PathBuf> {
    let name = model.server.draft_model.as_ref()?;
    if Path::new(name).is_dir() { Some(PathBuf::from(name)) } else { complete(name) }
}

/// What `--draft-model` names: the draft model's folder, or its name while its files are not there.
#[must_use]
pub fn draft(model: &Model) -> Option<String> {
    let name = model.server.draft_model.as_ref()?;
    let found = if Path::new(name).is_dir() { None } else { complete(name) };
    Some(found.map_or_else(|| name.clone(), |folder| folder.display().to_string()))
}

/// Why the files of `model` are not those that the hub's cache names as current, if they are not.
#[must_use]
pub fn instead(source: &Source) -> Option<String> {
    match source {
        Source::Hub(repo) => hub::cached(repo)?.instead,
        Source::Folder(_) | Source::Tiny => None,
    }
}

/// The folder that the model is loaded from, if it is there and whole.
#[must_use]
pub fn folder(source: &Source) -> Option<PathBuf> {
    match source {
        Source::Hub(repo) => complete(repo),
        Source::Folder(folder) => folder.is_dir().then(|| folder.clone()),
        Source::Tiny => tiny::existing(&folders::cache()),
    }
}

fn complete(repo: &str) -> Option<PathBuf> {
    hub::cached(repo).filter(|model| model.complete).map(|model| model.folder)
}

fn read(folder: Option<PathBuf>, profiles: &Profiles, otherwise: ModelFiles) -> Result<ModelFiles, Problem> {
    match folder {
        Some(folder) => {
            let profile = profiles.stored(&folder).and_then(Result::ok);
            Ok(ModelFiles::Read(Box::new(read_profiled(&folder, profile.as_ref())?)))
        }
        None => Ok(otherwise),
    }
}
