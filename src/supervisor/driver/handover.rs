//! Decides when a supervisor that leaves its backends to the next one may end. Pure, except for notifying the asker.

use crate::clock::Moment;
use crate::supervisor::answers::Hold;

/// The state of a hand-over in progress.
pub(super) struct Handover {
    /// Until when it waits for requests in flight.
    limit: Moment,
    held: Held,
}

/// Whether it stays after nothing is in flight.
enum Held {
    No,
    /// It will stay, after it has notified the asker.
    Later(Hold),
    /// It stays for SIGTERM, until then.
    Until(Moment),
}

impl Handover {
    /// Waits for requests in flight, until `limit`.
    pub(super) fn new(limit: Moment, hold: Option<Hold>) -> Self {
        Self { limit, held: hold.map_or(Held::No, Held::Later) }
    }

    /// Handles a repeated request for the hand-over.
    pub(super) fn again(&mut self, hold: Option<Hold>) {
        if let Some(hold) = hold {
            self.held = Held::Later(hold);
        }
    }

    /// Ends the wait now, whatever is in flight.
    pub(super) fn now(&mut self, now: Moment) {
        *self = Self { limit: now, held: Held::No };
    }

    /// Whether everything waited for is `done`, or the time is up.
    pub(super) fn is_over(&mut self, now: Moment, done: bool) -> bool {
        if !done && now < self.limit {
            return false;
        }
        match std::mem::replace(&mut self.held, Held::No) {
            Held::No => true,
            Held::Later(Hold { time, ready }) => {
                // The asker may be gone; then this ends when the time is up.
                let _ = ready.send(());
                self.held = Held::Until(now.after(time));
                false
            }
            Held::Until(end) => {
                self.held = Held::Until(end);
                now >= end
            }
        }
    }
}
