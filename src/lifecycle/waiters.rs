//! Commands that wait for an answer. A waiter is kept from its command to its answer and removed with it, so that it is
//! answered exactly once.

use super::effect::{Effect, Outcome, WaiterId};
use super::state::{Failure, Generation, Name, Next, State, StopReason};
use crate::clock::Moment;

/// The condition on which a waiter is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// A run later than this one is ready.
    Ready(Generation),
    /// A start is granted, or has failed.
    Granted,
    /// This run has ended, or a later one is live.
    Gone(Generation),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiter {
    id: WaiterId,
    model: Name,
    wants: Wants,
    deadline: Option<Moment>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Waiters(Vec<Waiter>);

impl Waiters {
    pub(super) fn add(&mut self, id: WaiterId, model: &Name, wants: Wants, deadline: Option<Moment>) {
        self.0.push(Waiter { id, model: model.clone(), wants, deadline });
    }

    /// The earliest deadline of all waiters.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.0.iter().filter_map(|waiter| waiter.deadline).min()
    }

    /// Answers the waiters whose deadline has passed.
    pub(super) fn expire(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.take(effects, |waiter| {
            waiter.deadline.filter(|deadline| *deadline <= now).map(|_| Outcome::TimedOut)
        });
    }

    /// Answers the waiters of `model` whose condition `state` meets or rules out.
    pub(super) fn settle(&mut self, model: &Name, state: &State, effects: &mut Vec<Effect>) {
        self.take(effects, |waiter| if waiter.model == *model { answer(waiter.wants, state) } else { None });
    }

    /// Answers every waiter of `model`, which is being removed.
    pub(super) fn dismiss(&mut self, model: &Name, why: StopReason, effects: &mut Vec<Effect>) {
        self.take(effects, |waiter| (waiter.model == *model).then_some(Outcome::Superseded(why)));
    }

    /// Answers every waiter for a start of `model`, which was refused.
    pub(super) fn refuse(&mut self, model: &Name, why: &Failure, effects: &mut Vec<Effect>) {
        self.take(effects, |waiter| {
            let starts = matches!(waiter.wants, Wants::Ready(_) | Wants::Granted);
            (waiter.model == *model && starts).then(|| Outcome::Failed(why.clone()))
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, effects: &mut Vec<Effect>, mut outcome: impl FnMut(&Waiter) -> Option<Outcome>) {
        self.0.retain(|waiter| match outcome(waiter) {
            Some(outcome) => {
                effects.push(Effect::Reply { waiter: waiter.id, outcome });
                false
            }
            None => true,
        });
    }
}

/// The outcome of `wants` in `state`; `None`: not decided yet.
fn answer(wants: Wants, state: &State) -> Option<Outcome> {
    match wants {
        Wants::Gone(generation) => match state.generation() {
            Some(live) if live <= generation => None,
            _ => Some(Outcome::Down { changed: true }),
        },
        Wants::Granted | Wants::Ready(_) => match state {
            State::Asking { .. } => None,
            State::Spawning { instead: Some(next), .. } => superseded(next),
            State::Spawning { instead: None, .. } | State::Loading { .. } => {
                (wants == Wants::Granted).then_some(Outcome::Granted)
            }
            State::Ready { run, .. } => match wants {
                Wants::Ready(after) if run.generation <= after => None,
                _ => Some(Outcome::Ready { changed: true }),
            },
            State::Draining { next, .. } | State::Stopping { next, .. } => superseded(next),
            State::Backoff { last, .. } | State::Failed { last } => Some(Outcome::Failed(last.clone())),
            State::Stopped { why } => Some(Outcome::Superseded(*why)),
        },
    }
}

fn superseded(next: &Next) -> Option<Outcome> {
    match next {
        Next::Stop(why) => Some(Outcome::Superseded(*why)),
        Next::Restart { .. } | Next::Recover(_) => None,
    }
}
