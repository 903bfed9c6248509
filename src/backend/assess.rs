//! Everything that is known about a model's memory before it is started, from one look at the disk.

use super::weights;
use crate::memory::Room;
use crate::memory::budget::Planned;
use crate::memory::files::read_learned;
use crate::memory::group::{HostEstimate, Outlook, outlook};
use crate::memory::{Bounds, Estimate, ModelFiles, Platform, Problem, learn};
use crate::python::profile::Profiles;
use crate::python::venv::{self, SetupRequest};
use crate::registry::{Model, Registry};
use crate::units::Bytes;

/// The bounds a start of a model would have, and what it would take.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assessment {
    /// Determine the flags, limits and environment of the backend.
    pub bounds: Bounds,
    /// What kept prompts and a prefill share; `None`: nothing, or the files are not downloaded.
    pub room: Option<Room>,
    /// On this machine; `None`: not known.
    pub estimate: Option<Estimate>,
    /// On every machine of its cluster, this one first; empty: no cluster, or not known.
    pub hosts: Vec<HostEstimate>,
    /// Bytes of caches that one more token takes; `None`: the files are not downloaded.
    pub kv_per_token: Option<Bytes>,
    /// Bytes of the weights; `None`: the files are not downloaded.
    pub weights: Option<Bytes>,
    /// Key of the learned footprints of such a run.
    pub key: String,
    /// Why the estimate is not exact; `None`: it is based on an exact profile, or there are no files.
    pub thumb: Option<String>,
}

/// `<state>/learned.json`, the file of learned footprints.
pub(crate) fn learned_file(registry: &Registry) -> std::path::PathBuf {
    registry.paths.state.join("learned.json")
}

/// Reads the files of `model` and its learned footprints, a few hundred kilobytes. Does not look at anything running.
///
/// # Errors
/// The [`Problem`] with its files or bounds; a start would be certain to fail.
pub(crate) fn assess(registry: &Registry, model: &Model, platform: Platform) -> Result<Assessment, Problem> {
    let profiles = Profiles::of(registry);
    let files = weights::of_model(model, &profiles)?;
    let draft = weights::of_draft(model, &profiles)?;
    let store = read_learned(&learned_file(registry));
    let versions = versions(registry);
    let learned = |bounds: &Bounds| store.get(&learning_key(model, &versions, bounds)).cloned();
    let Outlook { bounds, room, estimate, hosts } =
        outlook(model, &files, draft.as_ref(), platform, learned)?;
    let key = learning_key(model, &versions, &bounds);
    let read = match &files {
        ModelFiles::Read(files) => Some(files),
        ModelFiles::Declared(_) | ModelFiles::Unknown => None,
    };
    Ok(Assessment {
        estimate,
        hosts,
        kv_per_token: read.map(|files| files.shape.per_token(bounds.kv_quantized)),
        weights: read.map(|files| files.weights.bytes),
        bounds,
        room,
        key,
        thumb: read.and_then(|_| thumb(&profiles, model)),
    })
}

/// What a plan counts for `model`: its estimate, or its declared size if the files are missing. `None`: neither is known.
pub(crate) fn planned(
    registry: &Registry,
    model: &Model,
    platform: Platform,
) -> Result<Option<Planned>, Problem> {
    let estimate = assess(registry, model, platform)?.estimate;
    Ok(estimate.map(|estimate| Planned { bytes: estimate.reserve(), declared: estimate.declared }))
}

fn thumb(profiles: &Profiles, model: &Model) -> Option<String> {
    match profiles.stored(&weights::folder(&model.source)?, weights::division(model)) {
        None => Some("`mlxctl setup` makes it exact".to_owned()),
        Some(Ok(profile)) if profile.exact => None,
        Some(Ok(_)) => Some(
            "no rule is known for how this model's caches grow; the estimate is an upper bound".to_owned(),
        ),
        Some(Err(refused)) => Some(refused.message),
    }
}

/// Key of the learned footprints of a run: what it serves, the versions, and the hash of its bounds.
pub(crate) fn learning_key(model: &Model, versions: &str, bounds: &Bounds) -> String {
    learn::key(&model.source.to_string(), versions, &bounds.fingerprint())
}

/// The versions that a footprint depends on: `mlx-X mlx-lm-Y`, or `unknown` without an environment.
pub(crate) fn versions(registry: &Registry) -> String {
    match venv::existing(&SetupRequest::new(registry, false)) {
        Ok(environment) => format!("mlx-{} mlx-lm-{}", environment.versions.mlx, environment.versions.mlx_lm),
        Err(_) => "unknown".to_owned(),
    }
}
