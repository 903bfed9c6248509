//! What may happen.

use std::time::Duration;

use super::fleet::Policy;
use super::state::{Failure, Generation, Name, Run, StopReason};
use crate::clock::hours::TimeOfDay;
use crate::host::{Exit, Identity};
use crate::lifecycle::effect::WaiterId;

/// What may happen to the fleet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The supervisor is up and has adopted what there was: always-on models come up.
    Boot,
    /// `mlxctl start`; `waiter` is answered when the model is ready, or cannot be.
    Start {
        model: Name,
        waiter: WaiterId,
        /// Whether to go past a refusal.
        force: bool,
        /// Whether the answer waits for readiness; else it comes when the start is granted.
        wait: bool,
        /// The longest that the answer may take.
        timeout: Option<Duration>,
    },
    /// `mlxctl stop`; `waiter` is answered when the run is gone.
    Stop {
        model: Name,
        /// Who asked; `None`: pressure, yield.
        waiter: Option<WaiterId>,
        /// Why, as `status` will say.
        why: StopReason,
        /// Whether to skip the drain.
        now: bool,
        /// The longest drain; the policy's, if not named.
        drain: Option<Duration>,
    },
    /// `mlxctl restart`; `waiter` is answered when a new run is ready.
    Restart {
        model: Name,
        waiter: WaiterId,
        /// Whether to skip the drain.
        now: bool,
        /// The longest drain; the policy's, if not named.
        drain: Option<Duration>,
    },
    /// A start that memory refused, or that something missing prevented, may go now. Starts no manual model whose files
    /// were missing.
    Retry(Name),
    /// Memory pressure is over: an always-on model that was stopped for it may come back.
    Return(Name),
    /// What the time of day says to a model: until when it sleeps, if it does.
    Hours { model: Name, asleep: Option<TimeOfDay> },
    /// Something of one run.
    Of {
        model: Name,
        /// Which run's; stale ones die in `step`.
        generation: Generation,
        signed: Signed,
    },
    /// What an earlier supervisor knew of a model. Comes before its `Adopt` and before `Boot`.
    Recall {
        model: Name,
        /// Restarts after a failure, so far.
        restarts: u32,
        /// A person stopped it, so that `Boot` shall not start it.
        by_hand: bool,
        /// A person started it outside its hours.
        up_late: bool,
    },
    /// A backend of an earlier supervisor was found alive.
    Adopt {
        model: Name,
        /// The run, `adopted` set.
        run: Run,
    },
    /// A deadline may have passed.
    Tick,
    /// The machine slept: what waits for the machine's work waits longer, what waits for wall time does not.
    Slept(Duration),
    /// The registry changed: models with their policies, in order. What is not named is removed.
    Reload(Vec<(Name, Policy)>),
    /// Everything down. A second one, with `now`, skips the drains.
    Shutdown {
        /// Whether to skip the drains.
        now: bool,
    },
}

/// What may happen to one run. Signed with its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signed {
    /// The other machines of its cluster have room.
    Agreed,
    /// One of them has none, or could not be asked.
    Refused(Failure),
    Spawned(Identity),
    /// It could not be made.
    SpawnFailed(Failure),
    Listening(u16),
    /// It completed a token and owns its port.
    Answered,
    /// It lives but is of no use.
    Unhealthy(Failure),
    /// Nothing is in flight any more.
    Drained,
    /// Its whole process group is gone.
    Gone {
        exit: Exit,
        /// What its log says about it.
        diagnosis: Option<Failure>,
    },
}
