//! Puts models to sleep and wakes them by their hours. Checked with the regular upkeep, which notices a clock that was
//! changed, and at the next time at which any hours begin or end.

use std::time::Duration;

use super::Driver;
use crate::lifecycle::{Event, Name};

impl Driver {
    /// Puts models to sleep and wakes them. Returns the time until the next change, if the clock is not changed.
    pub(super) fn keep_hours(&mut self) -> Option<Duration> {
        let host = self.host.clone();
        let local = host.local_time();
        let mut next: Option<Duration> = None;
        for model in &self.registry.clone().models {
            let name = Name::from(model.name.as_str());
            let asleep = self.runs.slot_mut(&name).and_then(|slot| slot.look_at_hours(&*host));
            let change = model.hours.as_ref().and_then(|hours| Some(hours.next(local?)?.1));
            next = next.into_iter().chain(change).min();
            if self.fleet.get(&name).is_some_and(|managed| managed.policy.asleep != asleep) {
                self.handle(Event::Hours { model: name, asleep });
            }
        }
        next
    }
}
