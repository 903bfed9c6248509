//! Readings for a document that are not about a model.

use std::time::Duration;

use crate::clock::Moment;
use crate::host::Host;
use crate::registry::{Registry, Reserve};
use crate::units::Bytes;

/// How long a reading counts as current, so that frequent requests do not repeat it.
const FRESH: Duration = Duration::from_secs(1);

/// The readings of the last document.
#[derive(Debug, Default)]
pub(super) struct Glance {
    at: Option<Moment>,
    /// The supervisor's own footprint.
    own: Option<Bytes>,
    /// Programs with reserves, or that the models yield to.
    watched: Vec<String>,
    /// Those of `watched` that run.
    running: Vec<String>,
}

impl Glance {
    /// Takes the readings again, unless they are fresh.
    pub(super) fn look(&mut self, now: Moment, host: &dyn Host, registry: &Registry) {
        let names = |reserve: &Reserve| reserve.while_running.clone();
        let yield_to = registry.pressure.yield_to.iter().cloned();
        let watched: Vec<String> = registry.reserves.iter().flat_map(names).chain(yield_to).collect();
        if self.watched == watched && self.at.is_some_and(|at| now.since(at) < FRESH) {
            return;
        }
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let own = host.identify(pid).ok().flatten();
        let own = own.and_then(|own| Some(host.footprint(own).ok()?.bytes));
        // A single walk over all processes, whatever the number of reserves.
        let running = if watched.is_empty() { Vec::new() } else { host.running(&watched) };
        *self = Self { at: Some(now), own, watched, running };
    }

    /// Of `asked`, exactly `running` were just seen to run: readings that disagree are outdated.
    pub(super) fn contradicted_by(&mut self, asked: &[String], running: &[String]) {
        if asked.iter().any(|name| self.running.contains(name) != running.contains(name)) {
            self.at = None;
        }
    }

    pub(super) fn own(&self) -> Option<Bytes> {
        self.own
    }

    /// The watched programs that run.
    pub(super) fn running(&self) -> &[String] {
        &self.running
    }

    /// The running programs that the models yield to.
    pub(super) fn yielded_to(&self, registry: &Registry) -> Vec<String> {
        let yield_to = registry.pressure.yield_to.iter();
        yield_to.filter(|name| self.running.contains(name)).cloned().collect()
    }
}
