//! `step`: one event in, effects out. [`State`] changes nowhere else.

use std::time::Duration;

use super::effect::{Effect, Outcome};
use super::event::Event;
use super::fleet::{Admission, Fleet};
use super::state::{Failure, FailureKind, Generation, Name, Rung, State, StopReason, human};
use super::waiters::Wants;
use crate::clock::Moment;
use crate::host::Signal;
use crate::lifecycle::effect::WaiterId;
use crate::registry::Start;

/// Time between SIGKILLs to a process that does not end. It hangs in the kernel, and repeating is all there is to do.
const KILL_AGAIN: Duration = Duration::from_secs(10);

impl Fleet {
    /// Handles one event; returns the effects, in order.
    pub(crate) fn step(&mut self, now: Moment, event: Event, admission: &mut dyn Admission) -> Vec<Effect> {
        let mut turn = Turn { now, admission, effects: Vec::new() };
        match event {
            Event::Boot => self.boot(&mut turn),
            Event::Start { model, waiter, force, wait, timeout } => {
                let wants = if wait { Wants::Ready(Generation(0)) } else { Wants::Granted };
                self.start(&mut turn, &model, waiter, force, wants, timeout);
            }
            Event::Stop { model, waiter, why, now, drain } => {
                self.stop(&mut turn, &model, waiter, why, now, drain);
            }
            Event::Restart { model, waiter, now, drain } => {
                self.restart(&mut turn, &model, waiter, now, drain);
            }
            Event::Retry(model) => self.retry(&mut turn, &model),
            Event::Return(model) => {
                if let Some(index) = self.index(&model)
                    && matches!(self.models[index].state, State::Stopped { why: StopReason::Pressure })
                    && !self.closing
                    && !self.sleeps(index)
                {
                    self.bring_up(&mut turn, index);
                }
            }
            Event::Hours { model, asleep } => {
                if let Some(index) = self.index(&model)
                    && self.models[index].policy.start == Start::Always
                {
                    self.models[index].policy.asleep = asleep;
                    self.follow_hours(&mut turn, index);
                }
            }
            Event::Of { model, generation, signed } => {
                // The one place where events of stale generations are dropped.
                if let Some(index) = self.index(&model)
                    && self.models[index].state.generation() == Some(generation)
                {
                    self.signed(&mut turn, index, signed);
                }
            }
            Event::Recall { model, restarts, by_hand, up_late } => {
                if let Some(index) = self.index(&model) {
                    let model = &mut self.models[index];
                    model.restarts = restarts;
                    model.up_late = up_late;
                    if by_hand && matches!(model.state, State::Stopped { why: StopReason::NeverStarted }) {
                        model.state = State::Stopped { why: StopReason::ByHand };
                    }
                }
            }
            Event::Adopt { model, run } => self.adopt(&mut turn, &model, run),
            Event::Tick => self.tick(&mut turn),
            Event::Slept(length) => self.slept(length),
            Event::Reload(models) => self.reload(&mut turn, models),
            Event::Shutdown { now } => self.shutdown(&mut turn, now),
        }
        for index in 0..self.models.len() {
            let model = &self.models[index];
            self.waiters.settle(&model.name, &model.state, &mut turn.effects);
        }
        self.models.retain(|model| model.listed || model.state.generation().is_some());
        if self.closing
            && !self.finished
            && self.models.iter().all(|model| model.state.generation().is_none())
        {
            self.finished = true;
            turn.effects.push(Effect::Finished);
        }
        turn.effects
    }

    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.models.iter().position(|model| &*model.name == name)
    }

    /// Starts always-on models, except those that were adopted.
    fn boot(&mut self, turn: &mut Turn) {
        for index in 0..self.models.len() {
            // Adopted models as well, which may have to stop.
            self.follow_hours(turn, index);
            let model = &self.models[index];
            if model.policy.start == Start::Always
                && matches!(model.state, State::Stopped { why: StopReason::NeverStarted })
            {
                self.bring_up(turn, index);
            }
        }
    }

    /// Retries a start that lacked something. A manual model whose files were missing still waits for a person.
    fn retry(&mut self, turn: &mut Turn, name: &Name) {
        let Some(index) = self.index(name) else { return };
        let model = &self.models[index];
        match &model.state {
            State::Backoff { last, .. } if last.waits_for_others() => self.come_back(turn, index),
            state if state.waits_for_files() && model.policy.start == Start::Always && !self.closing => {
                self.bring_up(turn, index);
            }
            _ => {}
        }
    }

    fn tick(&mut self, turn: &mut Turn) {
        self.waiters.expire(turn.now, &mut turn.effects);
        for index in 0..self.models.len() {
            if self.models[index].state.deadline().is_none_or(|deadline| deadline > turn.now) {
                continue;
            }
            let model = &mut self.models[index];
            match &mut model.state {
                State::Loading { run, .. } => {
                    let text = format!("no token within {}", human(model.policy.load_timeout));
                    let kind =
                        if run.port.is_some() { FailureKind::LoadTimeout } else { FailureKind::PortLost };
                    self.unhealthy(turn, index, Failure::new(kind, text));
                }
                State::Draining { next, .. } => {
                    let next = next.clone();
                    turn.note(
                        &model.name,
                        "drain_cut",
                        "requests were still in flight at the end of the drain",
                    );
                    self.terminate(turn, index, next);
                }
                State::Stopping { run, rung, deadline, .. } => {
                    let text = match rung {
                        Rung::Term => {
                            format!(
                                "process {} did not end within {}",
                                run.identity.pid,
                                human(model.policy.stop.term)
                            )
                        }
                        Rung::Kill => format!("process {} did not end after SIGKILL", run.identity.pid),
                    };
                    *rung = Rung::Kill;
                    *deadline = turn.now.after(KILL_AGAIN);
                    let run = run.clone();
                    turn.note(&model.name, "killed", text);
                    turn.effects.push(Effect::Signal {
                        model: model.name.clone(),
                        run,
                        signal: Signal::Kill,
                    });
                }
                State::Backoff { .. } => self.come_back(turn, index),
                State::Stopped { .. }
                | State::Asking { .. }
                | State::Spawning { .. }
                | State::Ready { .. }
                | State::Failed { .. } => {}
            }
        }
    }

    /// Extends the deadlines for work that could not be done while the machine slept; backoffs run in wall time.
    fn slept(&mut self, length: Duration) {
        for model in &mut self.models {
            if let State::Loading { deadline, .. }
            | State::Draining { deadline, .. }
            | State::Stopping { deadline, .. } = &mut model.state
            {
                *deadline = deadline.after(length);
            }
        }
    }
}

/// The context of one step: its time, its admission and the effects so far.
pub(super) struct Turn<'a> {
    pub now: Moment,
    pub admission: &'a mut dyn Admission,
    pub effects: Vec<Effect>,
}

impl Turn<'_> {
    pub(super) fn reply(&mut self, waiter: WaiterId, outcome: Outcome) {
        self.effects.push(Effect::Reply { waiter, outcome });
    }

    pub(super) fn note(&mut self, model: &Name, kind: &'static str, text: impl Into<String>) {
        self.note_hinted(model, kind, text, None);
    }

    pub(super) fn note_hinted(
        &mut self,
        model: &Name,
        kind: &'static str,
        text: impl Into<String>,
        hint: Option<String>,
    ) {
        self.effects.push(Effect::Note { model: Some(model.clone()), kind, text: text.into(), hint });
    }
}
