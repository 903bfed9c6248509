//! What one model asks of memory.

use std::sync::Arc;

use super::learned::Learned;
use super::plan::{Files, Plan};
use crate::backend::assess;
use crate::lifecycle::{Failure, Generation};
use crate::memory::upkeep::Upkeep;
use crate::memory::{Estimate, Platform};
use crate::python::profile::Profiles;
use crate::registry::{Model, Registry};
use crate::units::Bytes;

/// One model's.
pub(crate) struct Demand {
    /// The registry's entry.
    pub(super) model: Arc<Model>,
    /// What its files say.
    files: Files,
    /// What its last run, or the next one, takes and is held to.
    plan: Option<Plan>,
    /// By how much its last start, which was forced, was over what there was.
    pub(super) overdraft: Option<Bytes>,
    /// How far ceiling and idle trims of a run are.
    upkeep: (Generation, Upkeep),
}

impl Demand {
    /// Nothing is known of its files yet.
    pub(super) fn new(model: Arc<Model>) -> Self {
        let (files, upkeep) = (Files::default(), (Generation::default(), Upkeep::default()));
        Self { model, files, plan: None, overdraft: None, upkeep }
    }

    /// Looks at its files and plans a run by them.
    ///
    /// # Errors
    /// Files that cannot be served, or bounds that cannot hold: the plan stays as it was.
    pub(super) fn look(
        &mut self,
        registry: &Registry,
        platform: Platform,
        learned: &Learned,
    ) -> Result<(), Failure> {
        self.files.look(&self.model, &Profiles::of(registry));
        self.plan = Some(self.files.plan(&self.model, platform, &assess::versions(registry), learned)?);
        Ok(())
    }

    /// The registry has this entry now.
    pub(super) fn follow(
        &mut self,
        model: Arc<Model>,
        registry: &Registry,
        platform: Platform,
        learned: &Learned,
    ) {
        self.model = model;
        if self.look(registry, platform, learned).is_err() {
            self.plan = None;
        }
    }

    /// The upkeep of this run, which begins with it.
    pub(super) fn upkeep(&mut self, generation: Generation) -> &mut Upkeep {
        if self.upkeep.0 != generation {
            self.upkeep = (generation, Upkeep::default());
        }
        &mut self.upkeep.1
    }

    /// What its files say.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// What a run takes and is held to; `None`: nothing can be said.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// What a run takes on this machine; `None`: nobody knows.
    pub(crate) fn estimate(&self) -> Option<&Estimate> {
        self.plan.as_ref()?.estimate.as_ref()
    }

    /// By how much its last start, which was forced, was over what there was.
    pub(crate) fn overdraft(&self) -> Option<Bytes> {
        self.overdraft
    }

    /// What it takes on a machine of its cluster; `None`: it is not one of them, or nobody knows.
    pub(super) fn share(&self, host: &str) -> Option<&Estimate> {
        let hosts = &self.plan.as_ref()?.hosts;
        hosts.iter().find(|share| share.host == host).map(|share| &share.estimate)
    }
}
