//! The end of a supervisor: by itself when all is down, or with its backends up, for the next one.

use std::time::Duration;

use futures_util::future::{OptionFuture, join_all};

use super::driver::Driver;
use crate::gate::{Availability, LAST_WORDS};
use crate::lifecycle::State;

/// Between two looks whether everything in flight is done.
const LOOK: Duration = Duration::from_millis(20);

/// What clients are told whose answers are not done when the time is up.
const CUT: &str = "the supervisor is being replaced; ask again in a moment";

impl Driver {
    /// Begins to leave: what is in flight may end, what is new waits at the gate, whose sockets close last.
    pub fn begin_to_leave(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        self.note(None, "handover", "the supervisor ends and leaves its backends to the next one");
        let drain = self.registry.models.iter().map(|model| model.stop.drain).max().unwrap_or_default();
        self.leaving = Some(self.host.now().after(drain));
        self.publish();
    }

    /// Whether no model has a request in flight.
    pub fn quiet(&self) -> bool {
        self.slots.values().all(|slot| slot.gate.traffic().in_flight() == 0)
    }

    /// Whether everything that was waited for is done, or the time is up.
    pub fn may_leave(&self) -> bool {
        let Some(limit) = self.leaving else { return false };
        // A stop or restart that is half done would look like a crash to the next one.
        let settled = self.fleet.models().iter().all(|model| {
            !matches!(model.state, State::Draining { .. } | State::Stopping { .. } | State::Spawning { .. })
        });
        (self.quiet() && settled) || self.host.now() >= limit
    }

    /// How soon to look again while it leaves.
    pub fn patience(&self, wait: Duration) -> Duration {
        if self.leaving.is_some() { wait.min(LOOK) } else { wait }
    }

    /// Lets go of the front doors: those who wait are told to come back, what is left is ended with a word.
    pub async fn close(&mut self) {
        self.keep(true);
        self.note(None, "down", "the supervisor ends");
        for managed in self.fleet.models() {
            let Some(slot) = self.slots.get(&managed.name) else { continue };
            if self.leaving.is_some() {
                slot.availability.send_replace(Availability::Draining);
            }
            if let Some(generation) = managed.state.generation() {
                slot.gate.abort(generation.0, CUT);
            }
        }
        let router = self.routing.router.take().map(|router| router.close(LAST_WORDS));
        let gates = self.slots.drain().map(|(_, slot)| slot.gate.close());
        // Side by side: a request may have come through either.
        let _ = tokio::join!(join_all(gates), OptionFuture::from(router));
    }
}
