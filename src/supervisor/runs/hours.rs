//! Always-on models that sleep outside their hours.

use std::time::Duration;

use super::slot::Slot;
use crate::clock::Moment;
use crate::clock::hours::TimeOfDay;
use crate::host::Host;
use crate::lifecycle::Policy;
use crate::registry::Model;

/// Two judgements of when a model opens that differ by less are the same.
const NEAR: Duration = Duration::from_secs(5);

/// Until when a model sleeps, by the clock on the wall; `None`: it does not, or nobody knows what time it is.
fn asleep(host: &dyn Host, model: &Model) -> Option<(TimeOfDay, Duration)> {
    let (hours, now) = (model.hours.as_ref()?, host.local_time()?);
    if hours.open(now) { None } else { hours.next(now) }
}

/// What the registry says about a model's life, at this time of day.
pub(crate) fn policy(host: &dyn Host, model: &Model) -> Policy {
    Policy { asleep: asleep(host, model).map(|(until, _)| until), ..Policy::from(model) }
}

impl Slot {
    /// Until when its hours have it sleep.
    pub(crate) fn look_at_hours(&mut self, host: &dyn Host) -> Option<TimeOfDay> {
        let sleeps = asleep(host, self.model());
        let now = host.now();
        self.opens = opens(self.opens, sleeps.map(|(_, left)| now.after(left)));
        sleeps.map(|(until, _)| until)
    }
}

/// The time that gates are told: not a new one for each look.
fn opens(before: Option<Moment>, now: Option<Moment>) -> Option<Moment> {
    match (before, now) {
        (Some(before), Some(now)) if before.since(now).max(now.since(before)) < NEAR => Some(before),
        _ => now,
    }
}
