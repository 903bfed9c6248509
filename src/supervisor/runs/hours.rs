//! The hours of always-on models, judged by the wall clock.

use std::time::Duration;

use super::slot::Slot;
use crate::clock::Moment;
use crate::clock::hours::TimeOfDay;
use crate::host::Host;
use crate::lifecycle::Policy;
use crate::registry::Model;

/// Changes of the time at which a model opens that are smaller than this are ignored.
const NEAR: Duration = Duration::from_secs(5);

/// Until when a model sleeps, by the wall clock, and how long that is; `None`: it is awake, or the time is not known.
fn asleep(host: &dyn Host, model: &Model) -> Option<(TimeOfDay, Duration)> {
    let (hours, now) = (model.hours.as_ref()?, host.local_time()?);
    if hours.open(now) { None } else { hours.next(now) }
}

/// The policy of a model by the registry, at this time of day.
pub(crate) fn policy(host: &dyn Host, model: &Model) -> Policy {
    Policy { asleep: asleep(host, model).map(|(until, _)| until), ..Policy::from(model) }
}

impl Slot {
    /// Until when the model sleeps because of its hours; `None`: it is awake.
    pub(crate) fn look_at_hours(&mut self, host: &dyn Host) -> Option<TimeOfDay> {
        let sleeps = asleep(host, self.model());
        let now = host.now();
        self.opens = opens(self.opens, sleeps.map(|(_, left)| now.after(left)));
        sleeps.map(|(until, _)| until)
    }
}

/// When the hours begin, as gates are told: kept unless it changes by [`NEAR`], so that they are not told every time.
fn opens(before: Option<Moment>, now: Option<Moment>) -> Option<Moment> {
    match (before, now) {
        (Some(before), Some(now)) if before.since(now).max(now.since(before)) < NEAR => Some(before),
        _ => now,
    }
}
