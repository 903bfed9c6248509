//! The end of a supervisor: by itself when all is down, or with its backends up, for the next one.

use std::time::Duration;

use super::Driver;
use super::handover::Handover;
use crate::lifecycle::State;
use crate::supervisor::answers::Hold;
use crate::supervisor::records::Note;

/// Between two looks whether everything in flight is done.
const LOOK: Duration = Duration::from_millis(20);

impl Driver {
    /// Begins to leave: what is in flight may end, what is new waits at the gate, whose sockets close last.
    pub(super) fn begin_handover(&mut self, hold: Option<Hold>) {
        if let Some(handover) = &mut self.handover {
            return handover.again(hold);
        }
        let text = "the supervisor ends and leaves its backends to the next one";
        self.note([Note::new("handover", text)]);
        let drain = self.registry.models.iter().map(|model| model.stop.drain).max().unwrap_or_default();
        self.handover = Some(Handover::new(self.host.now().after(drain), hold));
        self.publish();
    }

    /// Told to end while it leaves: it leaves now, and the backends stay for the next one all the same. Whether it was
    /// leaving.
    pub(super) fn leave_now(&mut self) -> bool {
        let now = self.host.now();
        self.handover.as_mut().map(|handover| handover.now(now)).is_some()
    }

    /// Whether the loop is over: all is down, or what a hand-over waited for is done.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.finished {
            return true;
        }
        let now = self.host.now();
        let Some(handover) = &mut self.handover else { return false };
        // A stop or restart that is half done would look like a crash to the next one.
        let settled = self.fleet.models().iter().all(|model| {
            !matches!(model.state, State::Draining { .. } | State::Stopping { .. } | State::Spawning { .. })
        });
        handover.is_over(now, self.runs.quiet() && settled)
    }

    /// How soon to look again while it leaves.
    pub(super) fn patience(&self, wait: Duration) -> Duration {
        if self.handover.is_some() { wait.min(LOOK) } else { wait }
    }

    /// Lets go of the front doors.
    pub(crate) async fn close(&mut self) {
        self.save(true);
        self.note([Note::new("down", "the supervisor ends")]);
        self.settle();
        self.runs.close(&self.fleet, self.handover.is_some()).await;
    }
}
