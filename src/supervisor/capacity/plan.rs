//! The plan for a model's run, its bounds and what it takes, from its files as they are now.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::learned::Learned;
use crate::backend::assess::learning_key;
use crate::backend::launch::Limits;
use crate::backend::weights;
use crate::lifecycle::{Failure, FailureKind};
use crate::memory::Room;
use crate::memory::group::{HostEstimate, Outlook, outlook};
use crate::memory::{Bounds, Estimate, ModelFiles, Platform, Problem};
use crate::python::profile::Profiles;
use crate::registry::Model;
use crate::units::Bytes;

/// What a model's files say. Checking costs two `stat`s; they are read again when they have changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    /// The folder, and when it and the folder of profiles were last changed.
    seen: Option<(PathBuf, Option<SystemTime>, Option<SystemTime>)>,
    /// Files of the model and of its draft model; `None`: not read yet.
    read: Option<Result<(ModelFiles, Option<ModelFiles>), Problem>>,
    /// `vocab_size` by the profile or config.json.
    pub vocabulary: Option<u32>,
    /// What the model's own chat template reads, by its profile; `None`: not known.
    pub variables: Option<BTreeSet<String>>,
}

impl Files {
    /// Reads the files, if they have changed.
    pub(crate) fn look(&mut self, model: &Model, profiles: &Profiles) {
        let folder = weights::folder(&model.source);
        let seen = folder.map(|folder| {
            let changed = fs_err::metadata(&folder).and_then(|found| found.modified()).ok();
            (folder, changed, profiles.changed())
        });
        if self.read.is_some() && seen.is_some() && seen == self.seen {
            return;
        }
        let folder = seen.as_ref().map(|(folder, ..)| folder.as_path());
        let profile = folder.and_then(|folder| profiles.stored(folder, weights::division(model))?.ok());
        self.vocabulary = match &profile {
            Some(profile) => u32::try_from(profile.vocabulary).ok(),
            None => folder.and_then(vocabulary),
        };
        self.variables = profile.and_then(|profile| profile.template?.read());
        self.seen = seen;
        self.read = Some(
            weights::of_model(model, profiles)
                .and_then(|files| Ok((files, weights::of_draft(model, profiles)?))),
        );
    }

    /// Bytes of the weights; `None`: the files are not downloaded or not usable.
    pub(crate) fn weights(&self) -> Option<Bytes> {
        match &self.read {
            Some(Ok((ModelFiles::Read(files), _))) => Some(files.weights.bytes),
            _ => None,
        }
    }

    /// Plans a run by these files.
    ///
    /// # Errors
    /// The files cannot be served, or the bounds cannot hold.
    pub(super) fn plan(
        &self,
        model: &Model,
        platform: Platform,
        versions: &str,
        learned: &Learned,
    ) -> Result<Plan, Failure> {
        let unusable = |problem: &Problem| {
            let failure = Failure::new(FailureKind::NotPrepared, problem.to_string());
            match problem.hint() {
                Some(hint) => failure.hint(hint.replace("NAME", &model.name)),
                None => failure,
            }
        };
        let (files, draft) = match &self.read {
            Some(Ok((files, draft))) => (files, draft.as_ref()),
            Some(Err(problem)) => return Err(unusable(problem)),
            None => (&ModelFiles::Unknown, None),
        };
        let footprints =
            |bounds: &Bounds| learned.footprints(&learning_key(model, versions, bounds)).cloned();
        let Outlook { bounds, room, estimate, hosts } =
            outlook(model, files, draft, platform, footprints).map_err(|problem| unusable(&problem))?;
        let key = learning_key(model, versions, &bounds);
        Ok(Plan { bounds, room, estimate, hosts, key, environment: platform.environment() })
    }
}

/// The bounds of a run and what it takes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub bounds: Bounds,
    /// What kept prompts and a prefill share; `None`: nothing, or the files are not downloaded.
    pub room: Option<Room>,
    /// What it takes on this machine; `None`: not known.
    pub estimate: Option<Estimate>,
    /// What it takes on every machine of its cluster; empty: no cluster, or not known.
    pub hosts: Vec<HostEstimate>,
    /// Key of its learned footprints.
    pub key: String,
    /// Variables that make freed memory go back to the system.
    pub environment: &'static [(&'static str, &'static str)],
}

impl Plan {
    /// The bounds as launcher limits and server flags.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            cache: Some(self.bounds.cache_limit),
            prompt_cache: Some(self.bounds.kv_limit),
            room: self.room.clone(),
            context: Some(self.bounds.context),
            prompt_store: Bytes::ZERO,
            flags: self.bounds.arguments(),
            environment: self.environment,
        }
    }
}

fn vocabulary(folder: &Path) -> Option<u32> {
    let config: serde_json::Value =
        serde_json::from_slice(&fs_err::read(folder.join("config.json")).ok()?).ok()?;
    let size = config.get("vocab_size").or_else(|| config.get("text_config")?.get("vocab_size"))?;
    u32::try_from(size.as_u64()?).ok()
}
