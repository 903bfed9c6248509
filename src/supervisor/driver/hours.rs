//! Models that go to sleep and wake up by their hours. Judged anew at the beat that other looks share, and at the next time
//! at which one opens or closes: a clock that jumped meanwhile is noticed there.

use std::time::Duration;

use super::Driver;
use crate::lifecycle::{Event, Name};

impl Driver {
    /// Has models go to sleep and wake up. How long until the next one does, if nobody moves the hands of the clock.
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
