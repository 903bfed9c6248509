//! Commands of people and of the registry: start, stop, restart, reload, shutdown.

use std::time::Duration;

use super::effect::{Effect, Outcome};
use super::fleet::{Fleet, Managed, Policy};
use super::state::{Cause, Failure, FailureKind, Generation, Name, Next, Rung, State, StopReason};
use super::step::Turn;
use super::waiters::Wants;
use crate::host::Signal;
use crate::lifecycle::effect::WaiterId;
use crate::registry::Start;

impl Fleet {
    pub(super) fn start(
        &mut self,
        turn: &mut Turn,
        name: &Name,
        waiter: WaiterId,
        force: bool,
        wants: Wants,
        timeout: Option<Duration>,
    ) {
        let Some(index) = self.index(name).filter(|index| self.models[*index].listed) else {
            return turn.reply(waiter, Outcome::Unknown);
        };
        if self.closing {
            return turn.reply(waiter, Outcome::Superseded(StopReason::Shutdown));
        }
        let model = &mut self.models[index];
        model.up_late = model.policy.asleep.is_some();
        let deadline = timeout.map(|timeout| turn.now.after(timeout));
        match &mut model.state {
            State::Ready { run, .. }
                if wants == Wants::Granted
                    || matches!(wants, Wants::Ready(after) if run.generation > after) =>
            {
                return turn.reply(waiter, Outcome::Ready { changed: false });
            }
            State::Ready { .. } | State::Loading { .. } => {}
            State::Asking { grant, .. } => {
                if force {
                    grant.forced = true;
                    turn.note(name, "forced", "started before the other machines have answered");
                    self.agreed(turn, index);
                }
            }
            State::Spawning { instead, .. } => *instead = None,
            State::Draining { next, .. } | State::Stopping { next, .. } => *next = Next::Restart { force },
            State::Stopped { .. } | State::Backoff { .. } | State::Failed { .. } => {
                model.failures.forgive();
                let cause = Cause::Person(Box::new(model.state.clone()));
                if let Err(failure) = self.launch(turn, index, force, cause) {
                    if failure.kind == FailureKind::FilesMissing {
                        self.fall(turn, index, failure.clone());
                    }
                    return turn.reply(waiter, Outcome::Failed(failure));
                }
                self.models[index].restarts = 0;
            }
        }
        self.waiters.add(waiter, name, wants, deadline);
    }

    pub(super) fn stop(
        &mut self,
        turn: &mut Turn,
        name: &Name,
        waiter: Option<WaiterId>,
        why: StopReason,
        now: bool,
        drain: Option<Duration>,
    ) {
        let Some(index) = self.index(name) else {
            if let Some(waiter) = waiter {
                turn.reply(waiter, Outcome::Unknown);
            }
            return;
        };
        let before = self.models[index].state.generation();
        let idle = matches!(self.models[index].state, State::Stopped { .. });
        self.bring_down(turn, index, Next::Stop(why), now, drain);
        let Some(waiter) = waiter else { return };
        match before {
            Some(generation) => self.waiters.add(waiter, name, Wants::Gone(generation), None),
            None => turn.reply(waiter, Outcome::Down { changed: !idle }),
        }
    }

    pub(super) fn restart(
        &mut self,
        turn: &mut Turn,
        name: &Name,
        waiter: WaiterId,
        now: bool,
        drain: Option<Duration>,
    ) {
        let live = self.index(name).and_then(|index| Some((index, self.models[index].state.generation()?)));
        let listed = |index: usize| self.models[index].listed;
        let Some((index, generation)) = live.filter(|(index, _)| !self.closing && listed(*index)) else {
            return self.start(turn, name, waiter, false, Wants::Ready(Generation(0)), None);
        };
        // A working run is only ended once everything that the next one needs is there.
        if let Err(failure) = turn.admission.prepared(name) {
            let text = format!("not restarted: {}", failure.text);
            turn.note_hinted(name, "refused", text, failure.hint.clone());
            let text = format!("{}; the current run continues", failure.text);
            let refusal = Failure { kind: FailureKind::Refused, text, ..failure };
            return turn.reply(waiter, Outcome::Failed(refusal));
        }
        self.models[index].failures.forgive();
        self.models[index].up_late = self.models[index].policy.asleep.is_some();
        self.bring_down(turn, index, Next::Restart { force: false }, now, drain);
        self.waiters.add(waiter, name, Wants::Ready(generation), None);
    }

    /// Ends whatever a model is doing; `next` follows. `now` skips the drain, which otherwise lasts up to `drain` (by
    /// default the policy's).
    pub(super) fn bring_down(
        &mut self,
        turn: &mut Turn,
        index: usize,
        next: Next,
        now: bool,
        drain: Option<Duration>,
    ) {
        let model = &mut self.models[index];
        let drain = drain.unwrap_or(model.policy.stop.drain);
        let limit = turn.now.after(drain);
        match &mut model.state {
            // There is no process yet, and the answers of the other machines will be stale.
            State::Asking { .. } => self.follow(turn, index, next),
            State::Spawning { instead, .. } => *instead = Some(next),
            State::Loading { .. } => self.terminate(turn, index, next),
            State::Ready { run, since } => {
                let run = run.clone();
                model.ready_for = turn.now.since(*since);
                if now || drain.is_zero() {
                    return self.terminate(turn, index, next);
                }
                turn.effects.push(Effect::Drain { model: model.name.clone(), generation: run.generation });
                model.state = State::Draining { run, deadline: limit, next };
            }
            State::Draining { deadline, next: was, .. } => {
                *was = next;
                *deadline = limit.min(*deadline);
                if now {
                    let next = was.clone();
                    self.terminate(turn, index, next);
                }
            }
            State::Stopping { next: was, .. } => *was = next,
            State::Stopped { why: was } => {
                if let Next::Stop(why) = next
                    && *was != StopReason::NeverStarted
                {
                    *was = why;
                }
            }
            State::Backoff { .. } | State::Failed { .. } => {
                if let Next::Stop(why) = next {
                    model.state = State::Stopped { why };
                    turn.note(&model.name, "stopped", why.text());
                }
            }
        }
    }

    /// The first rung: sends SIGTERM to the live run, whatever its state.
    pub(super) fn terminate(&mut self, turn: &mut Turn, index: usize, next: Next) {
        let model = &mut self.models[index];
        let Some(run) = model.state.run().cloned() else { return };
        let why = match &next {
            Next::Stop(why) => why.text().into_owned(),
            Next::Restart { .. } => "the model is being restarted".to_owned(),
            Next::Recover(failure) => failure.text.clone(),
        };
        turn.effects.push(Effect::Abort { model: model.name.clone(), generation: run.generation, why });
        turn.effects.push(Effect::Signal {
            model: model.name.clone(),
            run: run.clone(),
            signal: Signal::Term,
        });
        let deadline = turn.now.after(model.policy.stop.term);
        model.state = State::Stopping { run, rung: Rung::Term, deadline, next };
    }

    pub(super) fn reload(&mut self, turn: &mut Turn, wanted: Vec<(Name, Policy)>) {
        for index in 0..self.models.len() {
            if !wanted.iter().any(|(name, _)| *name == self.models[index].name) {
                self.models[index].listed = false;
                self.bring_down(turn, index, Next::Stop(StopReason::Removed), false, None);
                let name = self.models[index].name.clone();
                if self.models[index].state.generation().is_none() {
                    self.waiters.dismiss(&name, StopReason::Removed, &mut turn.effects);
                }
            }
        }
        for (position, (name, policy)) in wanted.into_iter().enumerate() {
            let index = if let Some(index) = self.index(&name) {
                let model = &mut self.models[index];
                model.policy = policy;
                if !std::mem::replace(&mut model.listed, true) {
                    model.state.take_back(model.policy.start);
                }
                index
            } else {
                self.models.push(Managed::new(name, policy, Generation(0)));
                self.models.len() - 1
            };
            let index = {
                let model = self.models.remove(index);
                let position = position.min(self.models.len());
                self.models.insert(position, model);
                position
            };
            self.follow_hours(turn, index);
            let model = &self.models[index];
            match (&model.state, model.policy.start) {
                (State::Stopped { why: StopReason::NeverStarted | StopReason::Removed }, Start::Always)
                    if !self.closing =>
                {
                    self.bring_up(turn, index);
                }
                (State::Backoff { last, .. }, Start::Manual) if !model.policy.restart.enabled => {
                    let last = last.clone();
                    self.models[index].state = State::Failed { last };
                }
                _ => {}
            }
        }
    }

    pub(super) fn shutdown(&mut self, turn: &mut Turn, now: bool) {
        self.closing = true;
        for index in 0..self.models.len() {
            self.bring_down(turn, index, Next::Stop(StopReason::Shutdown), now, None);
        }
    }
}

impl State {
    /// Reverts a removal in progress: the model is in the registry again.
    fn take_back(&mut self, start: Start) {
        if let Self::Spawning { instead: Some(next), .. }
        | Self::Draining { next, .. }
        | Self::Stopping { next, .. } = self
            && *next == Next::Stop(StopReason::Removed)
        {
            *next = match start {
                Start::Always => Next::Restart { force: false },
                Start::Manual => Next::Stop(StopReason::ByHand),
            };
        }
    }
}
