//! When a supervisor that leaves its backends to the next one may end. Pure but for telling who asked.

use crate::clock::Moment;
use crate::supervisor::answers::Hold;

/// A hand-over under way.
pub(super) struct Handover {
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

impl Handover {
    /// Waits for what is in flight until `limit`.
    pub(super) fn new(limit: Moment, hold: Option<Hold>) -> Self {
        Self { limit, held: hold.map_or(Held::No, Held::Later) }
    }

    /// Asked for once more.
    pub(super) fn again(&mut self, hold: Option<Hold>) {
        if let Some(hold) = hold {
            self.held = Held::Later(hold);
        }
    }

    /// It leaves now, whatever is in flight.
    pub(super) fn now(&mut self, now: Moment) {
        *self = Self { limit: now, held: Held::No };
    }

    /// Whether everything that was waited for is done, or the time is up.
    pub(super) fn is_over(&mut self, now: Moment, done: bool) -> bool {
        if !done && now < self.limit {
            return false;
        }
        match std::mem::replace(&mut self.held, Held::No) {
            Held::No => true,
            Held::Later(Hold { time, ready }) => {
                // Who asked may have gone; then it leaves when the time is over.
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
