//! The end of a supervisor: by itself when all is down, or with its backends up, for the next one.

use std::time::Duration;

use futures_util::future::{OptionFuture, join_all};

use crate::clock::Moment;
use crate::gate::{Availability, LAST_WORDS};
use crate::lifecycle::State;
use crate::supervisor::driver::Driver;
use crate::supervisor::handle::Hold;

/// Between two looks whether everything in flight is done.
const LOOK: Duration = Duration::from_millis(20);

/// What clients are told whose answers are not done when the time is up.
const CUT: &str = "the supervisor is being replaced; ask again in a moment";

/// A hand-over under way.
pub(in crate::supervisor) struct Handover {
    /// Until when it waits for what is in flight.
    limit: Moment,
    held: Held,
}

/// Whether it stays when nothing is in flight any more.
enum Held {
    No,
    /// It will, and whoever waits for that is told.
    Later(Hold),
    /// It does, for SIGTERM, until then.
    Until(Moment),
}

impl Driver {
    /// Begins to leave: what is in flight may end, what is new waits at the gate, whose sockets close last.
    pub fn begin_to_leave(&mut self, hold: Option<Hold>) {
        let held = hold.map_or(Held::No, Held::Later);
        if let Some(leaving) = &mut self.leaving {
            if matches!(held, Held::Later(_)) {
                leaving.held = held;
            }
            return;
        }
        self.note(None, "handover", "the supervisor ends and leaves its backends to the next one");
        let drain = self.registry.models.iter().map(|model| model.stop.drain).max().unwrap_or_default();
        self.leaving = Some(Handover { limit: self.host.now().after(drain), held });
        self.publish();
    }

    /// Told to end while it leaves: it leaves now, and the backends stay for the next one all the same. Whether it was
    /// leaving.
    pub fn leave_now(&mut self) -> bool {
        let now = self.host.now();
        let Some(leaving) = &mut self.leaving else { return false };
        *leaving = Handover { limit: now, held: Held::No };
        true
    }

    /// Whether no model has a request in flight.
    pub fn quiet(&self) -> bool {
        self.slots.values().all(|slot| slot.gate.traffic().in_flight() == 0)
    }

    /// Whether everything that was waited for is done, or the time is up.
    pub fn leaves(&mut self) -> bool {
        let now = self.host.now();
        let Some(limit) = self.leaving.as_ref().map(|leaving| leaving.limit) else { return false };
        // A stop or restart that is half done would look like a crash to the next one.
        let settled = self.fleet.models().iter().all(|model| {
            !matches!(model.state, State::Draining { .. } | State::Stopping { .. } | State::Spawning { .. })
        });
        if !(self.quiet() && settled) && now < limit {
            return false;
        }
        let Some(leaving) = &mut self.leaving else { return false };
        match std::mem::replace(&mut leaving.held, Held::No) {
            Held::No => true,
            Held::Later(Hold { time, ready }) => {
                // Who asked may have gone; then it leaves when the time is over.
                let _ = ready.send(());
                leaving.held = Held::Until(now.after(time));
                false
            }
            Held::Until(end) => {
                leaving.held = Held::Until(end);
                now >= end
            }
        }
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
