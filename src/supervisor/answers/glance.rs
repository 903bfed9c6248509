//! What is looked at for a document, apart from the models.

use std::time::Duration;

use crate::clock::Moment;
use crate::host::Host;
use crate::registry::{Registry, Reserve};
use crate::units::Bytes;

/// For how long what was looked at counts as that of now: whoever asks often does not want to know it more exactly.
const FRESH: Duration = Duration::from_secs(1);

/// As it was looked at for the last document.
#[derive(Debug, Default)]
pub(super) struct Glance {
    at: Option<Moment>,
    /// The supervisor's own memory.
    own: Option<Bytes>,
    /// Programs that reserves are for, or that the models yield to.
    watched: Vec<String>,
    /// Those of them that run.
    running: Vec<String>,
}

impl Glance {
    /// Looks, unless it looked just now.
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
        // One walk over all processes, whatever the number of reserves.
        let running = if watched.is_empty() { Vec::new() } else { host.running(&watched) };
        *self = Self { at: Some(now), own, watched, running };
    }

    /// The programs of `asked` that run now were seen to be these: what is shown must not say otherwise.
    pub(super) fn contradicted_by(&mut self, asked: &[String], running: &[String]) {
        if asked.iter().any(|name| self.running.contains(name) != running.contains(name)) {
            self.at = None;
        }
    }

    /// The supervisor's own memory.
    pub(super) fn own(&self) -> Option<Bytes> {
        self.own
    }

    /// The programs that run, of those that anything depends on.
    pub(super) fn running(&self) -> &[String] {
        &self.running
    }

    /// Those of them that the models yield to.
    pub(super) fn yielded_to(&self, registry: &Registry) -> Vec<String> {
        let yield_to = registry.pressure.yield_to.iter();
        yield_to.filter(|name| self.running.contains(name)).cloned().collect()
    }
}
