//! Always-on models outside their hours: down without being stopped by anybody, and up again when they open. A person's
//! start holds until they close again. No manual model has hours, so none is started here.

use super::fleet::Fleet;
use super::state::{Cause, Next, State, StopReason};
use super::step::Turn;
use crate::registry::Start;

impl Fleet {
    /// Whether the model is to be down now because of its hours.
    pub(super) fn sleeps(&self, index: usize) -> bool {
        let model = &self.models[index];
        model.policy.asleep.is_some() && !model.up_late
    }

    /// Brings a model to where its hours want it; what a person has stopped stays down.
    pub(super) fn follow_hours(&mut self, turn: &mut Turn, index: usize) {
        let model = &mut self.models[index];
        if self.closing || !model.listed {
            return;
        }
        match model.policy.asleep {
            None => {
                model.up_late = false;
                self.wake(turn, index);
            }
            Some(until) if !model.up_late => {
                let why = StopReason::Hours(until);
                match &mut model.state {
                    State::Stopped { why: was } => {
                        if was.gives_way_to_hours() {
                            *was = why;
                        }
                    }
                    State::Spawning { instead: Some(next), .. }
                    | State::Draining { next, .. }
                    | State::Stopping { next, .. } => {
                        if !matches!(next, Next::Stop(was) if !was.gives_way_to_hours()) {
                            *next = Next::Stop(why);
                        }
                    }
                    _ => self.bring_down(turn, index, Next::Stop(why), false, None),
                }
            }
            Some(_) => {}
        }
    }

    fn wake(&mut self, turn: &mut Turn, index: usize) {
        let model = &mut self.models[index];
        let always = model.policy.start == Start::Always;
        match &mut model.state {
            State::Stopped { why: StopReason::Hours(_) } if always => {
                if let Err(failure) = self.launch(turn, index, false, Cause::Supervisor) {
                    self.fall(turn, index, failure);
                }
            }
            State::Spawning { instead, .. }
                if matches!(instead, Some(Next::Stop(StopReason::Hours(_)))) && always =>
            {
                *instead = None;
            }
            State::Draining { next, .. } | State::Stopping { next, .. }
                if matches!(next, Next::Stop(StopReason::Hours(_))) && always =>
            {
                *next = Next::Restart { force: false };
            }
            // It has become a manual one.
            State::Stopped { why: why @ StopReason::Hours(_) } => *why = StopReason::NeverStarted,
            _ => {}
        }
    }
}

impl StopReason {
    /// Whether it would come back by itself, so that the hours have a say in it.
    fn gives_way_to_hours(self) -> bool {
        matches!(self, Self::NeverStarted | Self::Pressure | Self::Hours(_))
    }
}
