//! The fleet: all models together, owned by one loop.

use std::time::Duration;

use super::restart::Failures;
use super::state::{Failure, Generation, Name, State, StopReason};
use super::waiters::Waiters;
use crate::clock::Moment;
use crate::clock::hours::TimeOfDay;
use crate::registry::{Model, Restart, Start, Stop};
use crate::units::Bytes;

/// The registry's settings for starting and stopping a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    pub start: Start,
    pub restart: Restart,
    pub stop: Stop,
    /// Longest time from spawn to the first token.
    pub load_timeout: Duration,
    /// For an always-on model outside its hours: until when. Set by [`super::Event::Hours`].
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

/// Decides whether a model may start. Called inside the loop, so that nothing changes between check and start.
pub(crate) trait Admission {
    /// Judges a start. `live` is what is reserved now, one pair per live run.
    ///
    /// # Errors
    /// A [`Failure`] of kind `Refused`, or `FilesMissing` or `NotPrepared` if something that a start needs is missing.
    /// `force` overrides a refusal, which the verdict then names, but not the other two.
    fn judge(&mut self, model: &Name, live: &[(Name, Bytes)], force: bool) -> Result<Verdict, Failure>;

    /// Checks that everything a start needs is there, except memory. Called before a working run is ended for a new one.
    ///
    /// # Errors
    /// A [`Failure`] of kind `FilesMissing` or `NotPrepared`.
    fn prepared(&mut self, model: &Name) -> Result<(), Failure>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub reserved: Bytes,
    /// The refusal that `--force` overrode.
    pub overridden: Option<String>,
    /// Whether other machines have to agree.
    pub others: bool,
}

/// A model with its policy, state and counters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Managed {
    pub name: Name,
    pub policy: Policy,
    pub state: State,
    /// The number of the last run; 0: none yet.
    pub generation: Generation,
    /// Restarts after failures since a person or the supervisor's boot last started it.
    pub restarts: u32,
    /// Whether a person started it outside its hours: then it stays up until the hours next end.
    pub up_late: bool,
    /// Failures that still count towards backoff and quarantine.
    pub(super) failures: Failures,
    /// How long the current or last run was ready; taken when a failure is counted.
    pub(super) ready_for: Duration,
    /// Whether it is still in the registry.
    pub(super) listed: bool,
}

/// All models, and all commands that wait for them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fleet {
    pub(super) models: Vec<Managed>,
    pub(super) waiters: Waiters,
    pub(super) closing: bool,
    pub(super) finished: bool,
    /// State of the pseudo-random sequence that spreads restarts; not secret.
    pub(super) dice: u64,
}

impl Fleet {
    /// A fleet with everything stopped. Each model comes with its last generation by the records; `seed` spreads
    /// restarts.
    pub(crate) fn new(models: impl IntoIterator<Item = (Name, Policy, Generation)>, seed: u64) -> Self {
        let models =
            models.into_iter().map(|(name, policy, last)| Managed::new(name, policy, last)).collect();
        Self { models, waiters: Waiters::default(), closing: false, finished: false, dice: seed }
    }

    pub(crate) fn models(&self) -> &[Managed] {
        &self.models
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Managed> {
        self.models.iter().find(|model| &*model.name == name)
    }

    /// Bytes reserved by live runs, one pair per run. Derived from the states, so that it cannot drift.
    pub(crate) fn reserved(&self) -> Vec<(Name, Bytes)> {
        self.models
            .iter()
            .filter(|model| model.state.generation().is_some())
            .map(|model| (model.name.clone(), model.state.reserved()))
            .collect()
    }

    /// When the next [`super::Event::Tick`] is due; `None`: nothing is waiting for time to pass.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.models.iter().filter_map(|model| model.state.deadline()).chain(self.waiters.deadline()).min()
    }

    /// The next pseudo-random number (SplitMix64, public domain, Steele et al. 2014).
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

    /// Why it is in its state; `None` for states that need no reason.
    pub(crate) fn reason(&self) -> Option<String> {
        match &self.state {
            State::Stopped { why } => Some(why.text().into_owned()),
            State::Backoff { last, .. } | State::Failed { last } => Some(last.text.clone()),
            State::Draining { next, .. } | State::Stopping { next, .. } => Some(match next {
                super::Next::Stop(why) => why.text().into_owned(),
                super::Next::Restart { .. } => "restarting".to_owned(),
                super::Next::Recover(failure) => failure.text.clone(),
            }),
            State::Asking { .. } => Some("asking the other machines of its cluster for room".to_owned()),
            State::Spawning { .. } | State::Loading { .. } | State::Ready { .. } => None,
        }
    }

    /// What a person can do about its state; `None`: nothing.
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
