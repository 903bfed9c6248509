//! All models together: what one loop owns.

use std::time::Duration;

use super::restart::Failures;
use super::state::{Failure, Generation, Name, State, StopReason};
use super::waiters::Waiters;
use crate::clock::Moment;
use crate::clock::hours::TimeOfDay;
use crate::registry::{Model, Restart, Start, Stop};
use crate::units::Bytes;

/// What the registry says about a model's life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// Always-on or manual.
    pub start: Start,
    /// After a crash.
    pub restart: Restart,
    /// How to stop it.
    pub stop: Stop,
    /// From spawn to the first token.
    pub load_timeout: Duration,
    /// Outside the hours of an always-on model: until when. Whoever knows the time of day says so.
    pub asleep: Option<TimeOfDay>,
}

impl From<&Model> for Policy {
    fn from(model: &Model) -> Self {
        Self {
            start: model.start,
            restart: model.restart.clone(),
            stop: model.stop.clone(),
            load_timeout: model.health.load_timeout,
            asleep: None,
        }
    }
}

/// Whether a model may start now. Asked inside the loop, so that what is read is what is acted on.
pub(crate) trait Admission {
    /// Judges a start. `live` is what is reserved now, a pair a live run.
    ///
    /// # Errors
    /// A [`Failure`] of kind `Refused`, or `FilesMissing` or `NotPrepared` when something that a start needs is not there.
    /// `force` goes past a refusal, and the verdict says so, but not past what is not prepared.
    fn judge(&mut self, model: &Name, live: &[(Name, Bytes)], force: bool) -> Result<Verdict, Failure>;

    /// Looks whether everything that a start needs is there, memory aside. Asked before a run that works is ended for
    /// another one.
    ///
    /// # Errors
    /// A [`Failure`] of kind `FilesMissing` or `NotPrepared`.
    fn prepared(&mut self, model: &Name) -> Result<(), Failure>;
}

/// A granted start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub reserved: Bytes,
    /// The refusal that `--force` went past.
    pub overridden: Option<String>,
    /// Whether other machines have to agree.
    pub others: bool,
}

/// One model with its life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Managed {
    pub name: Name,
    /// What the registry says.
    pub policy: Policy,
    /// What it is doing.
    pub state: State,
    /// The last run's number.
    pub generation: Generation,
    /// Restarts after a failure, since it was last started by a person or with the supervisor.
    pub restarts: u32,
    /// Whether a person has started it outside its hours: it stays up until their next end.
    pub up_late: bool,
    /// Its failures, as far as they still matter.
    pub(super) failures: Failures,
    /// How long the last run was ready.
    pub(super) ready_for: Duration,
    /// Whether it is still in the registry.
    pub(super) listed: bool,
}

/// All models, and all that wait for them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fleet {
    pub(super) models: Vec<Managed>,
    pub(super) waiters: Waiters,
    pub(super) closing: bool,
    pub(super) finished: bool,
    /// State of the pseudo-random sequence that spreads restarts; no secret.
    pub(super) dice: u64,
}

impl Fleet {
    /// A fleet at rest. `last` is each model's last generation, as far as records tell; `seed` spreads restarts.
    pub(crate) fn new(models: impl IntoIterator<Item = (Name, Policy, Generation)>, seed: u64) -> Self {
        let models =
            models.into_iter().map(|(name, policy, last)| Managed::new(name, policy, last)).collect();
        Self { models, waiters: Waiters::default(), closing: false, finished: false, dice: seed }
    }

    /// In the registry's order.
    pub(crate) fn models(&self) -> &[Managed] {
        &self.models
    }

    /// One of them.
    pub(crate) fn get(&self, name: &str) -> Option<&Managed> {
        self.models.iter().find(|model| &*model.name == name)
    }

    /// Bytes reserved by live runs, a pair a run. Derived, so that it cannot drift.
    pub(crate) fn reserved(&self) -> Vec<(Name, Bytes)> {
        self.models
            .iter()
            .filter(|model| model.state.generation().is_some())
            .map(|model| (model.name.clone(), model.state.reserved()))
            .collect()
    }

    /// When a [`super::Event::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.models.iter().filter_map(|model| model.state.deadline()).chain(self.waiters.deadline()).min()
    }

    /// The next number of the sequence (SplitMix64, public domain, Steele et al. 2014).
    pub(super) fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Managed {
    pub(super) fn new(name: Name, policy: Policy, last: Generation) -> Self {
        Self {
            name,
            policy,
            state: State::Stopped { why: StopReason::NeverStarted },
            generation: last,
            restarts: 0,
            up_late: false,
            failures: Failures::default(),
            ready_for: Duration::ZERO,
            listed: true,
        }
    }

    /// Why it is in its state, where that needs saying.
    pub(crate) fn reason(&self) -> Option<String> {
        match &self.state {
            State::Stopped { why } => Some(why.text().into_owned()),
            State::Backoff { last, .. } | State::Failed { last } => Some(last.text.clone()),
            State::Draining { next, .. } | State::Stopping { next, .. } => Some(match next {
                super::Next::Stop(why) => why.text().into_owned(),
                super::Next::Restart { .. } => "restarting".to_owned(),
                super::Next::Recover(failure) => failure.text.clone(),
            }),
            State::Asking { .. } => Some("the other machines of its cluster are asked for room".to_owned()),
            State::Spawning { .. } | State::Loading { .. } | State::Ready { .. } => None,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match &self.state {
            State::Backoff { last, .. } | State::Failed { last } => {
                last.hint.clone().or_else(|| match self.state {
                    State::Failed { .. } => Some(format!("mlxctl start {}", self.name)),
                    _ => None,
                })
            }
            State::Stopped { .. } => Some(format!("mlxctl start {}", self.name)),
            _ => None,
        }
    }
}
