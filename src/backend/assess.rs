//! Everything that is known of a model's memory before it is started, in one look at the disk.

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

/// What a start of a model would be held to, and would take.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assessment {
    /// Flags, limits and environment follow from it.
    pub bounds: Bounds,
    /// What kept prompts and a prefill share.
    pub room: Option<Room>,
    /// On this machine; `None` if unknown.
    pub estimate: Option<Estimate>,
    /// On every machine of its cluster, this one first; empty: it has none, or nobody knows.
    pub hosts: Vec<HostEstimate>,
    /// KV bytes that one more token takes, where the files are there.
    pub kv_per_token: Option<Bytes>,
    /// Bytes of the weights, where the files are there.
    pub weights: Option<Bytes>,
    /// Under what the footprints of such a run are learned.
    pub key: String,
    /// Why the estimate stands on rules of thumb and not on what mlx_lm says; `None`: it does not.
    pub thumb: Option<String>,
}

/// The file of learned footprints.
pub(crate) fn learned_file(registry: &Registry) -> std::path::PathBuf {
    registry.paths.state.join("learned.json")
}

/// Looks at the files of `model`, at what is learned of it, and at nothing that runs. Reads a few hundred kilobytes.
///
/// # Errors
/// The [`Problem`] with its files or its bounds: a start is certain to fail.
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

/// What a plan counts `model` with: its estimate, or its declared size for want of files. `None`: neither is known.
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
            "this model's caches grow in a way that has no rule here; it counts as an upper bound".to_owned(),
        ),
        Some(Err(refused)) => Some(refused.message),
    }
}

/// Under what the footprints of a run are learned: what it serves, the versions, what it is held to.
pub(crate) fn learning_key(model: &Model, versions: &str, bounds: &Bounds) -> String {
    learn::key(&model.source.to_string(), versions, &bounds.fingerprint())
}

/// The versions that a footprint depends on.
pub(crate) fn versions(registry: &Registry) -> String {
    match venv::existing(&SetupRequest::new(registry, false)) {
        Ok(environment) => format!("mlx-{} mlx-lm-{}", environment.versions.mlx, environment.versions.mlx_lm),
        Err(_) => "unknown".to_owned(),
    }
}
