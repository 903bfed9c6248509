//! Takes over what earlier supervisors left.

use super::Driver;
use crate::backend::record;
use crate::backend::spec::Record;
use crate::host::Identity;
use crate::lifecycle::{Event, Name, StopReason};
use crate::supervisor::records::Note;
use crate::supervisor::runs::{Claim, Found, run_of};
use crate::units::Bytes;

impl Driver {
    /// Adopts or stops the backends that were found.
    pub(super) fn adopt(&mut self, found: Found) {
        self.note(found.problems().iter().map(|problem| Note::new("record_problem", problem)));
        self.recall();
        for candidate in found.candidates(&self.registry.paths.run, &*self.host) {
            match self.runs.claim(candidate) {
                Claim::Adopt(name, record) => self.take_over(&name, record),
                Claim::Restore(name, record) => self.restore(&name, record),
                Claim::PutAway(name, who, why) => {
                    let text = format!("stopping process {}: {why}", who.pid);
                    self.note([Note::of(&name, "stray_stopped", text)]);
                    self.runs.put_away(name, who);
                }
            }
        }
    }

    /// Restores what earlier supervisors of this boot knew about the models.
    fn recall(&mut self) {
        for model in &self.registry.clone().models {
            let name = Name::from(model.name.as_str());
            let before = self.records.recall(&self.registry.paths.run, &name);
            let (restarts, by_hand, up_late) = (before.restarts, before.by_hand, before.up_late);
            if let Some(slot) = self.runs.slot_mut(&name) {
                slot.recall(before.lent, before.last_used);
            }
            let overdraft = before.forced.then_some(Bytes(before.overdraft));
            self.capacity.recall_overdraft(&name, overdraft);
            self.handle(Event::Recall { model: name, restarts, by_hand, up_late });
        }
    }

    fn restore(&mut self, name: &Name, record: Record) {
        let text = format!("process {} has no record: it was found by its arguments", record.identity.pid);
        self.note([Note::of(name, "record_lost", text)]);
        if let Err(error) = record::write_record(&self.registry.paths.run, &record) {
            self.note([Note::of(name, "record_problem", error.to_string())]);
        }
        self.take_over(name, record);
    }

    fn take_over(&mut self, name: &Name, record: Record) {
        let before = self.records.before(name);
        let (forced, by_hand) = before.map(|before| (before.forced, before.by_hand)).unwrap_or_default();
        let run = run_of(&record, forced, &*self.host);
        // The fleet must know the run before its exit can be reported.
        self.handle(Event::Adopt { model: name.clone(), run });
        if let Some(slot) = self.runs.slot_mut(name) {
            slot.adopt(&self.registry, record);
        }
        self.look_for_differences(name);
        if by_hand {
            // The supervisor died while it was carrying out a `stop`.
            let why = StopReason::ByHand;
            self.handle(Event::Stop { model: name.clone(), waiter: None, why, now: false, drain: None });
        }
    }

    /// Handles the end of a process that was being stopped as a stray.
    pub(super) fn stray_gone(&mut self, name: &Name, who: Identity) {
        self.runs.stray_gone(who);
        self.note([Note::of(name, "stray_gone", format!("process {} is gone", who.pid))]);
        if self.runs.slot(name).is_some() {
            return self.handle(Event::Retry(name.clone()));
        }
        self.records.forget_model(&self.registry.paths.run, name);
    }
}
