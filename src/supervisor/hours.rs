//! Always-on models that sleep outside their hours. Judged anew at the beat that other looks share, and at the next time
//! at which one opens or closes: a clock that jumped meanwhile is noticed there.

use std::time::Duration;

use super::driver::Driver;
use crate::clock::Moment;
use crate::clock::hours::TimeOfDay;
use crate::host::Host;
use crate::lifecycle::{Event, Name, Policy};
use crate::registry::Model;

/// Two judgements of when a model opens that differ by less are the same.
const NEAR: Duration = Duration::from_secs(5);

/// Until when a model sleeps, by the clock on the wall; `None`: it does not, or nobody knows what time it is.
fn asleep(host: &dyn Host, model: &Model) -> Option<(TimeOfDay, Duration)> {
    let (hours, now) = (model.hours.as_ref()?, host.local_time()?);
    if hours.open(now) { None } else { hours.next(now) }
}

/// What the registry says about a model's life, at this time of day.
pub(super) fn policy(host: &dyn Host, model: &Model) -> Policy {
    Policy { asleep: asleep(host, model).map(|(until, _)| until), ..Policy::from(model) }
}

impl Driver {
    /// Has models go to sleep and wake up. How long until the next one does, if nobody moves the hands of the clock.
    pub fn keep_hours(&mut self) -> Option<Duration> {
        let (now, local) = (self.host.now(), self.host.local_time());
        let mut next: Option<Duration> = None;
        for model in self.registry.clone().models.iter() {
            let name = Name::from(model.name.as_str());
            let sleeps = asleep(&*self.host, model);
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.opens = opens(slot.opens, sleeps.map(|(_, left)| now.after(left)));
            }
            let change = model.hours.as_ref().and_then(|hours| Some(hours.next(local?)?.1));
            next = next.into_iter().chain(change).min();
            let asleep = sleeps.map(|(until, _)| until);
            if self.fleet.get(&name).is_some_and(|managed| managed.policy.asleep != asleep) {
                self.handle(Event::Hours { model: name, asleep });
            }
        }
        next
    }
}

/// The time that gates are told: not a new one for each look.
fn opens(before: Option<Moment>, now: Option<Moment>) -> Option<Moment> {
    match (before, now) {
        (Some(before), Some(now)) if before.since(now).max(now.since(before)) < NEAR => Some(before),
        _ => now,
    }
}
