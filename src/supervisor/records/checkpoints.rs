//! The checkpoints of all models: those that were found, and those on disk for the next supervisor.

use std::collections::HashMap;
use std::path::Path;

use super::checkpoint::Checkpoint;
use crate::lifecycle::Name;

#[derive(Debug, Default)]
struct Pair {
    /// What earlier supervisors left.
    before: Checkpoint,
    /// What is on disk now.
    saved: Checkpoint,
}

#[derive(Debug)]
pub(super) struct Checkpoints {
    boot_id: String,
    models: HashMap<Name, Pair>,
    /// Why the last write failed; `None`: it did not.
    problem: Option<String>,
}

impl Checkpoints {
    pub(super) fn new(boot_id: &str) -> Self {
        Self { boot_id: boot_id.to_owned(), models: HashMap::new(), problem: None }
    }

    pub(super) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn recall(&mut self, run: &Path, model: &Name) -> &Checkpoint {
        let found = Checkpoint::read(run, model, &self.boot_id);
        let pair = self.models.entry(model.clone()).or_default();
        *pair = Pair { before: found.clone(), saved: found };
        &pair.before
    }

    pub(super) fn before(&self, model: &Name) -> Option<&Checkpoint> {
        self.models.get(model).map(|pair| &pair.before)
    }

    /// Writes checkpoints that differ in more than counters; with `counters`, all that differ.
    pub(super) fn save(&mut self, run: &Path, now: Vec<(Name, Checkpoint)>, counters: bool) {
        let mut problem = None;
        let mut tried = false;
        for (model, now) in now {
            let pair = self.models.entry(model.clone()).or_default();
            let due = now.differs_in_life(&pair.saved) || (counters && now != pair.saved);
            if !due {
                continue;
            }
            tried = true;
            match now.write(run, &model) {
                Ok(()) => pair.saved = now,
                Err(error) => problem = Some(error.to_string()),
            }
        }
        if tried {
            self.problem = problem;
        }
    }

    pub(super) fn forget(&mut self, model: &Name) {
        self.models.remove(model);
    }
}
