//! The end of a supervisor: after everything is down, or with its backends left up for the next one.

use std::time::Duration;

use super::Driver;
use super::handover::Handover;
use crate::lifecycle::State;
use crate::supervisor::answers::Hold;
use crate::supervisor::records::Note;

/// Time between checks whether requests are still in flight.
const LOOK: Duration = Duration::from_millis(20);

impl Driver {
    /// Starts a hand-over: requests in flight may end, new ones wait at the gates, whose sockets close last.
    pub(super) fn begin_handover(&mut self, hold: Option<Hold>) {
        if let Some(handover) = &mut self.handover {
            return handover.again(hold);
        }
        let text = "the supervisor ends and leaves its backends running for the next one";
        self.note([Note::new("handover", text)]);
        let drain = self.registry.models.iter().map(|model| model.stop.drain).max().unwrap_or_default();
        self.handover = Some(Handover::new(self.host.now().after(drain), hold));
        self.publish();
    }

    /// Ends a hand-over in progress at once; the backends still stay up. Returns whether there was one.
    pub(super) fn leave_now(&mut self) -> bool {
        let now = self.host.now();
        self.handover.as_mut().map(|handover| handover.now(now)).is_some()
    }

    /// Whether the loop is over: everything is down, or a hand-over is complete.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.finished {
            return true;
        }
        let now = self.host.now();
        let Some(handover) = &mut self.handover else { return false };
        // To the next supervisor, a half-done stop or restart would look like a crash.
        let settled = self.fleet.models().iter().all(|model| {
            !matches!(model.state, State::Draining { .. } | State::Stopping { .. } | State::Spawning { .. })
        });
        handover.is_over(now, self.runs.quiet() && settled)
    }

    /// `wait`, shortened during a hand-over.
    pub(super) fn patience(&self, wait: Duration) -> Duration {
        if self.handover.is_some() { wait.min(LOOK) } else { wait }
    }

    /// Saves the state and closes the gates.
    pub(crate) async fn close(&mut self) {
        self.save(true);
        self.note([Note::new("down", "the supervisor ends")]);
        self.settle();
        self.runs.close(&self.fleet, self.handover.is_some()).await;
    }
}
