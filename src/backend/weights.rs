//! Finds a model's files and reads what they say about memory.

use std::path::{Path, PathBuf};

use crate::folders;
use crate::memory::files::{self, read_adapter, read_profiled};
use crate::memory::profile::{Refused, RefusedKind};
use crate::memory::{ModelFiles, Problem, Profile, Shape};
use crate::python::profile::{Division, Profiles};
use crate::python::{hub, tiny};
use crate::registry::{Model, Source};

/// The files of `model`, with its profile if there is one; its declared size until all files are there.
///
/// # Errors
/// The [`Problem`] that makes existing files unusable.
pub(crate) fn of_model(model: &Model, profiles: &Profiles) -> Result<ModelFiles, Problem> {
    let declared = model.size.map_or(ModelFiles::Unknown, ModelFiles::Declared);
    let mut files = read(folder(&model.source), profiles, division(model), declared)?;
    if let (ModelFiles::Read(files), Some(adapter)) = (&mut files, &model.server.adapter_path) {
        files.adapter = read_adapter(adapter)?;
    }
    Ok(files)
}

/// How `model` is divided over the ranks of its cluster; `None`: it has no cluster.
pub(crate) fn division(model: &Model) -> Option<Division> {
    let cluster = model.cluster.as_ref()?;
    Some(Division { mode: cluster.mode, ranks: cluster.ranks.len() })
}

/// The shape by `config.json` of a divided model that mlx_lm has not been asked about. `None`: mlx_lm was asked, or the
/// files are not here.
///
/// # Errors
/// [`Problem::Cluster`]: mlx_lm cannot divide it this way. Else the problem with `config.json`.
pub(crate) fn undivided(model: &Model, profiles: &Profiles) -> Result<Option<Shape>, Problem> {
    let Some(folder) = folder(&model.source) else { return Ok(None) };
    match profile(&folder, profiles, division(model))? {
        Some(_) => Ok(None),
        None => files::read_config(&folder).map(Some),
    }
}

/// A hollow file of `model`, its draft model or its adapter, found even if other files are missing; see
/// [`files::impostor`].
pub(crate) fn impostor(model: &Model) -> Option<Problem> {
    let own = match &model.source {
        Source::Hub(repo) => hub::cached(repo).map(|model| model.folder),
        Source::Folder(_) | Source::Tiny => folder(&model.source),
    };
    own.into_iter()
        .chain(draft_folder(model))
        .chain(model.server.adapter_path.clone())
        .find_map(|folder| files::impostor(&folder))
}

/// The files of the draft model; `None`: `model` has none.
pub(crate) fn of_draft(model: &Model, profiles: &Profiles) -> Result<Option<ModelFiles>, Problem> {
    let folder = draft_folder(model);
    if model.server.draft_model.is_none() {
        return Ok(None);
    }
    read(folder, profiles, None, ModelFiles::Unknown).map(Some)
}

/// The folder of the draft model, if there is one and it is complete.
pub(crate) fn draft_folder(model: &Model) -> Option<PathBuf> {
    let name = model.server.draft_model.as_ref()?;
    if Path::new(name).is_dir() { Some(PathBuf::from(name)) } else { complete(name) }
}

/// The value of `--draft-model`: the draft model's folder, or its name while its files are missing.
pub(crate) fn draft(model: &Model) -> Option<String> {
    let name = model.server.draft_model.as_ref()?;
    Some(draft_folder(model).map_or_else(|| name.clone(), |folder| folder.display().to_string()))
}

/// Why the files of a repository are not those that the hub's cache names as current; `None`: they are.
pub(crate) fn instead(source: &Source) -> Option<String> {
    match source {
        Source::Hub(repo) => hub::cached(repo)?.instead,
        Source::Folder(_) | Source::Tiny => None,
    }
}

/// The folder that the model is loaded from, if it is there and complete.
pub(crate) fn folder(source: &Source) -> Option<PathBuf> {
    match source {
        Source::Hub(repo) => complete(repo),
        Source::Folder(folder) => folder.is_dir().then(|| folder.clone()),
        Source::Tiny => tiny::existing(&folders::cache()),
    }
}

fn complete(repo: &str) -> Option<PathBuf> {
    hub::cached(repo).filter(|model| model.complete).map(|model| model.folder)
}

fn read(
    folder: Option<PathBuf>,
    profiles: &Profiles,
    division: Option<Division>,
    otherwise: ModelFiles,
) -> Result<ModelFiles, Problem> {
    let Some(folder) = folder else { return Ok(otherwise) };
    let profile = profile(&folder, profiles, division)?;
    Ok(ModelFiles::Read(Box::new(read_profiled(&folder, profile.as_ref())?)))
}

fn profile(
    folder: &Path,
    profiles: &Profiles,
    division: Option<Division>,
) -> Result<Option<Profile>, Problem> {
    match profiles.stored(folder, division) {
        Some(Err(Refused { kind: RefusedKind::Ranks, message })) => Err(Problem::Cluster { why: message }),
        found => Ok(found.and_then(Result::ok)),
    }
}
