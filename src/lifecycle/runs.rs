//! Events of runs (spawned, ready, unhealthy, gone) and what follows from them.

use std::time::Duration;

use super::effect::Effect;
use super::event::Signed;
use super::fleet::Fleet;
use super::state::{
    Cause, Failure, FailureKind, Generation, Grant, Name, Next, Run, State, StopReason, human,
};
use super::step::Turn;
use crate::host::{Exit, Identity};

impl Fleet {
    pub(super) fn signed(&mut self, turn: &mut Turn, index: usize, signed: Signed) {
        match signed {
            Signed::Agreed => self.agreed(turn, index),
            Signed::Refused(failure) => self.refused(turn, index, failure),
            Signed::Spawned(identity) => self.spawned(turn, index, identity),
            Signed::SpawnFailed(failure) => {
                let instead = match &mut self.models[index].state {
                    State::Spawning { instead, .. } => instead.take(),
                    _ => return,
                };
                match instead {
                    Some(next) => self.follow(turn, index, next),
                    None => self.fall(turn, index, failure),
                }
            }
            Signed::Listening(port) => {
                if let State::Loading { run, .. } = &mut self.models[index].state {
                    run.port = Some(port);
                }
            }
            Signed::Answered => {
                let model = &mut self.models[index];
                if let State::Loading { run, .. } = &model.state {
                    let run = run.clone();
                    let took = turn.now.since(run.spawned);
                    turn.note(
                        &model.name,
                        "ready",
                        format!("ready after {} (run {})", human(took), run.generation),
                    );
                    model.state = State::Ready { run, since: turn.now };
                }
            }
            Signed::Unhealthy(failure) => self.unhealthy(turn, index, failure),
            Signed::Drained => {
                if let State::Draining { next, .. } = &self.models[index].state {
                    let next = next.clone();
                    self.terminate(turn, index, next);
                }
            }
            Signed::Gone { exit, diagnosis } => self.gone(turn, index, exit, diagnosis),
        }
    }

    pub(super) fn spawned(&mut self, turn: &mut Turn, index: usize, identity: Identity) {
        let model = &mut self.models[index];
        let State::Spawning { grant, instead } = &model.state else { return };
        let run = Run {
            generation: grant.generation,
            identity,
            reserved: grant.reserved,
            forced: grant.forced,
            spawned: turn.now,
            port: None,
            adopted: false,
        };
        let instead = instead.clone();
        turn.note(&model.name, "spawned", format!("run {} is process {}", run.generation, identity.pid));
        let deadline = turn.now.after(model.policy.load_timeout);
        model.state = State::Loading { run, deadline };
        if let Some(next) = instead {
            self.terminate(turn, index, next);
        }
    }

    /// Ends a run that lives but cannot serve; the model then continues as after a crash.
    pub(super) fn unhealthy(&mut self, turn: &mut Turn, index: usize, failure: Failure) {
        let model = &mut self.models[index];
        match &model.state {
            State::Ready { since, .. } => model.ready_for = turn.now.since(*since),
            State::Loading { .. } => {}
            State::Draining { next, .. } => {
                let next = next.clone();
                return self.terminate(turn, index, next);
            }
            _ => return,
        }
        turn.note(&model.name, "unhealthy", &failure.text);
        self.terminate(turn, index, Next::Recover(failure));
    }

    pub(super) fn gone(&mut self, turn: &mut Turn, index: usize, exit: Exit, diagnosis: Option<Failure>) {
        let model = &mut self.models[index];
        match &model.state {
            State::Draining { next, run, .. } | State::Stopping { next, run, .. } => {
                let next = next.clone();
                turn.note(&model.name, "gone", format!("run {} {}", run.generation, exit));
                self.follow(turn, index, next);
            }
            State::Ready { since, run } => {
                model.ready_for = turn.now.since(*since);
                let failure = crash(run.generation, exit, diagnosis);
                turn.note(&model.name, "crashed", &failure.text);
                self.fall(turn, index, failure);
            }
            State::Loading { run, .. } => {
                let failure = crash(run.generation, exit, diagnosis);
                turn.note(&model.name, "crashed", &failure.text);
                self.fall(turn, index, failure);
            }
            State::Asking { .. }
            | State::Spawning { .. }
            | State::Stopped { .. }
            | State::Backoff { .. }
            | State::Failed { .. } => {}
        }
    }

    /// Continues after a run that was ended on purpose.
    pub(super) fn follow(&mut self, turn: &mut Turn, index: usize, next: Next) {
        match next {
            Next::Stop(why) => {
                let model = &mut self.models[index];
                model.state = State::Stopped { why };
                turn.note(&model.name, "stopped", why.text());
            }
            Next::Restart { force } => {
                // `launch` needs a state without a run.
                self.models[index].state = State::Stopped { why: StopReason::ByHand };
                match self.launch(turn, index, force, Cause::Supervisor) {
                    Ok(()) => self.models[index].restarts = 0,
                    Err(failure) => self.fall(turn, index, failure),
                }
            }
            Next::Recover(failure) => self.fall(turn, index, failure),
        }
    }

    /// Continues after a failure: restarts at once, later, or not at all.
    pub(super) fn fall(&mut self, turn: &mut Turn, index: usize, failure: Failure) {
        let dice = self.roll();
        let closing = self.closing;
        let model = &mut self.models[index];
        if closing || !model.listed {
            let why = if closing { StopReason::Shutdown } else { StopReason::Removed };
            model.state = State::Stopped { why };
            return;
        }
        let ready_for = std::mem::take(&mut model.ready_for);
        if !model.policy.restart.enabled || failure.kind == FailureKind::FilesMissing {
            let text = format!("{}; it stays down", failure.text);
            turn.note_hinted(&model.name, "failed", text, failure.hint.clone());
            model.state = State::Failed { last: failure };
            return;
        }
        let wait = if failure.waits_for_others() {
            model.failures.wait_out(&model.policy.restart, dice)
        } else {
            model.failures.count(turn.now, ready_for, &model.policy.restart, dice)
        };
        let quarantine = if wait.quarantined { " (failed too often: quarantined)" } else { "" };
        let mut last = failure;
        last.text.push_str(quarantine);
        let until = turn.now.after(wait.delay);
        if wait.delay.is_zero() {
            // No event: the crash was noted, and the new run is about to be.
            model.state = State::Backoff { attempt: wait.attempt, until, last };
            return self.come_back(turn, index);
        }
        turn.note_hinted(
            &model.name,
            if wait.quarantined { "quarantine" } else { "backoff" },
            format!("{}; next start in {}", last.text, human(wait.delay)),
            last.hint.clone(),
        );
        model.state = State::Backoff { attempt: wait.attempt, until, last };
    }

    /// Restarts a model at the end of its backoff.
    pub(super) fn come_back(&mut self, turn: &mut Turn, index: usize) {
        match self.launch(turn, index, false, Cause::Backoff) {
            Ok(()) => {
                let model = &mut self.models[index];
                if !matches!(model.state, State::Asking { .. }) {
                    model.restarts = model.restarts.saturating_add(1);
                }
            }
            Err(failure) => self.fall(turn, index, failure),
        }
    }

    /// Starts a model for the supervisor, not for a person; a refusal is treated like any other failure.
    pub(super) fn bring_up(&mut self, turn: &mut Turn, index: usize) {
        if let Err(failure) = self.launch(turn, index, false, Cause::Supervisor) {
            self.fall(turn, index, failure);
        }
    }

    /// Asks admission and, if it agrees, starts a run. The caller makes sure that the model has none.
    pub(super) fn launch(
        &mut self,
        turn: &mut Turn,
        index: usize,
        force: bool,
        cause: Cause,
    ) -> Result<(), Failure> {
        let live = self.reserved();
        let model = &mut self.models[index];
        let verdict = match turn.admission.judge(&model.name, &live, force) {
            Ok(verdict) => verdict,
            Err(failure) => {
                turn.note_hinted(&model.name, "refused", &failure.text, failure.hint.clone());
                return Err(failure);
            }
        };
        if let Some(refusal) = &verdict.overridden {
            turn.note(&model.name, "forced", format!("started although {refusal}"));
        }
        model.generation = model.generation.next();
        model.ready_for = Duration::ZERO;
        let (generation, reserved) = (model.generation, verdict.reserved);
        let grant = Grant { generation, reserved, forced: verdict.overridden.is_some() };
        if verdict.others {
            model.state = State::Asking { grant, cause };
            turn.effects.push(Effect::Ask { model: model.name.clone(), generation });
        } else {
            model.state = State::Spawning { grant, instead: None };
            turn.effects.push(Effect::Spawn { model: model.name.clone(), generation, reserved });
        }
        Ok(())
    }

    /// Spawns a run whose start is `Asking`: the other machines have room, or a person forced it.
    pub(super) fn agreed(&mut self, turn: &mut Turn, index: usize) {
        let model = &mut self.models[index];
        let State::Asking { grant, cause } = &model.state else { return };
        if *cause == Cause::Backoff {
            model.restarts = model.restarts.saturating_add(1);
        }
        let grant = grant.clone();
        turn.effects.push(Effect::Spawn {
            model: model.name.clone(),
            generation: grant.generation,
            reserved: grant.reserved,
        });
        model.state = State::Spawning { grant, instead: None };
    }

    /// Gives up a start that is `Asking`, because another machine has no room.
    fn refused(&mut self, turn: &mut Turn, index: usize, failure: Failure) {
        let model = &mut self.models[index];
        let State::Asking { cause, .. } = &model.state else { return };
        turn.note_hinted(&model.name, "refused", &failure.text, failure.hint.clone());
        match cause.clone() {
            Cause::Person(before) => {
                model.state = *before;
                self.waiters.refuse(&model.name, &failure, &mut turn.effects);
            }
            Cause::Supervisor | Cause::Backoff => self.fall(turn, index, failure),
        }
    }

    pub(super) fn adopt(&mut self, turn: &mut Turn, name: &Name, run: Run) {
        let Some(index) = self.index(name) else { return };
        let model = &mut self.models[index];
        if model.state.generation().is_some() {
            return;
        }
        turn.note(
            name,
            "adopted",
            format!("run {} is still running as process {}", run.generation, run.identity.pid),
        );
        model.generation = model.generation.max(run.generation);
        let deadline = turn.now.after(model.policy.load_timeout);
        model.state = State::Loading { run, deadline };
    }
}

impl Failure {
    /// Whether the model is not at fault: it lacks memory, or something is not prepared.
    pub(crate) fn waits_for_others(&self) -> bool {
        matches!(self.kind, FailureKind::Refused | FailureKind::NotPrepared)
    }
}

impl State {
    /// Whether it is down because its model files are missing.
    pub(crate) fn waits_for_files(&self) -> bool {
        matches!(self, Self::Failed { last } if last.kind == FailureKind::FilesMissing)
    }
}

fn crash(generation: Generation, exit: Exit, diagnosis: Option<Failure>) -> Failure {
    diagnosis.unwrap_or_else(|| Failure::new(FailureKind::Crashed, format!("run {generation} {}", exit)))
}
