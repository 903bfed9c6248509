//! Writes down what a later supervisor shall know of the models, when it has changed.

use crate::backend::record;
use crate::gate::Gate;
use crate::lifecycle::Name;
use crate::supervisor::driver::Driver;
use crate::supervisor::records::checkpoint::{self, Checkpoint};

impl Driver {
    /// Writes what has changed in a model's life; with `counters`, also what was only counted.
    pub fn keep(&mut self, counters: bool) {
        let run = &self.registry.paths.run;
        let boot_id = &self.host.facts().boot_id;
        let mut problem = None;
        let mut tried = false;
        for managed in self.fleet.models() {
            let Some(slot) = self.slots.get_mut(&managed.name) else { continue };
            let traffic = slot.before.add_to(slot.gate.traffic().status());
            let now = Checkpoint::of(managed, slot.overdraft, slot.lent, slot.used.last, &traffic, boot_id);
            let due = now.differs_in_life(&slot.kept) || (counters && now != slot.kept);
            if !due {
                continue;
            }
            tried = true;
            match now.write(run, &managed.name) {
                Ok(()) => slot.kept = now,
                Err(error) => problem = Some(error.to_string()),
            }
        }
        if tried {
            self.disk_problem = problem;
        }
        self.forget_removed();
    }

    /// Closes the doors of models that are no longer in the registry and whose last run is gone.
    fn forget_removed(&mut self) {
        let gone: Vec<Name> =
            self.slots.keys().filter(|name| self.fleet.get(name).is_none()).cloned().collect();
        for name in gone {
            if let Some(slot) = self.slots.remove(&name) {
                tokio::spawn(Gate::close(slot.gate));
            }
            let run = &self.registry.paths.run;
            let forgotten =
                record::forget_model(run, &name).and_then(|()| record::remove(&checkpoint::file(run, &name)));
            if let Err(error) = forgotten {
                self.note(Some(&name), "record_problem", &error.to_string());
            }
        }
    }
}
