//! Always-on models outside their hours: the supervisor stops them, and starts them when the hours begin. A start by a
//! person lasts until the hours next end. Manual models have no hours, so none is started here.

use super::fleet::Fleet;
use super::state::{Next, State, StopReason};
use super::step::Turn;
use crate::registry::Start;

impl Fleet {
    /// Whether the model has to be down now because of its hours.
    pub(super) fn sleeps(&self, index: usize) -> bool {
        let model = &self.models[index];
        model.policy.asleep.is_some() && !model.up_late
    }

    /// Starts or stops a model as its hours demand; a model stopped by a person stays down.
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
                self.bring_up(turn, index);
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
            // A reload has made it manual.
            State::Stopped { why: why @ StopReason::Hours(_) } => *why = StopReason::NeverStarted,
            _ => {}
        }
    }
}

impl StopReason {
    /// Whether such a model would come back by itself, so that its hours decide instead.
    fn gives_way_to_hours(self) -> bool {
        matches!(self, Self::NeverStarted | Self::Pressure | Self::Hours(_))
    }
}
