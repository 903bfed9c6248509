//! What one model needs of memory.

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

/// One model's files, the plan for its runs, and the state of its upkeep.
pub(crate) struct Demand {
    pub(super) model: Arc<Model>,
    files: Files,
    /// The plan of its last run or the next one; `None`: nothing is known.
    plan: Option<Plan>,
    /// By how much its last start, if forced, exceeded the memory there was.
    pub(super) overdraft: Option<Bytes>,
    /// The state of ceiling and idle trims, and the run that it belongs to.
    upkeep: (Generation, Upkeep),
}

impl Demand {
    /// A demand before its files have been read.
    pub(super) fn new(model: Arc<Model>) -> Self {
        let (files, upkeep) = (Files::default(), (Generation::default(), Upkeep::default()));
        Self { model, files, plan: None, overdraft: None, upkeep }
    }

    /// Reads its files and plans a run by them.
    ///
    /// # Errors
    /// The files cannot be served, or the bounds cannot hold; the plan stays as it was.
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

    /// Follows a new registry entry; the plan is dropped if it cannot be made.
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

    /// The state of upkeep of this run, fresh for a new run.
    pub(super) fn upkeep(&mut self, generation: Generation) -> &mut Upkeep {
        if self.upkeep.0 != generation {
            self.upkeep = (generation, Upkeep::default());
        }
        &mut self.upkeep.1
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// The bounds of a run and what it takes; `None`: nothing is known.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// What a run takes on this machine; `None`: not known.
    pub(crate) fn estimate(&self) -> Option<&Estimate> {
        self.plan.as_ref()?.estimate.as_ref()
    }

    /// By how much its last start, if forced, exceeded the memory there was.
    pub(crate) fn overdraft(&self) -> Option<Bytes> {
        self.overdraft
    }

    /// What it takes on one machine of its cluster; `None`: not one of its machines, or not known.
    pub(super) fn share(&self, host: &str) -> Option<&Estimate> {
        let hosts = &self.plan.as_ref()?.hosts;
        hosts.iter().find(|share| share.host == host).map(|share| &share.estimate)
    }
}
