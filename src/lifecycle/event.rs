//! Events: the input of [`Fleet::step`](super::Fleet::step).

use std::time::Duration;

use super::fleet::Policy;
use super::state::{Failure, Generation, Name, Run, StopReason};
use crate::clock::hours::TimeOfDay;
use crate::host::{Exit, Identity};
use crate::lifecycle::effect::WaiterId;

/// Something that happened to the fleet, or that is asked of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The supervisor is up and has adopted what was running: always-on models start.
    Boot,
    /// `mlxctl start`; `waiter` is answered when the model is ready, or the start has failed.
    Start {
        model: Name,
        waiter: WaiterId,
        /// Whether to override a refusal.
        force: bool,
        /// Whether to answer when the model is ready; else when the start is granted.
        wait: bool,
        /// Time until the answer [`Outcome::TimedOut`](super::Outcome::TimedOut); `None`: no limit.
        timeout: Option<Duration>,
    },
    /// A stop; `waiter` is answered when the run has ended.
    Stop {
        model: Name,
        /// `None`: a stop by the supervisor's own policies.
        waiter: Option<WaiterId>,
        why: StopReason,
        now: bool,
        /// The longest drain; `None`: the policy's.
        drain: Option<Duration>,
    },
    /// `mlxctl restart`; `waiter` is answered when a new run is ready. `now` skips the drain.
    Restart {
        model: Name,
        waiter: WaiterId,
        now: bool,
        /// The longest drain; `None`: the policy's.
        drain: Option<Duration>,
    },
    /// A start that was refused, or lacked something, may succeed now. Does not start a manual model whose files were
    /// missing.
    Retry(Name),
    /// Memory pressure is over: an always-on model that was stopped because of it may start again.
    Return(Name),
    /// The hours of an always-on model by the time of day; `asleep`: until when it sleeps, `None`: it is awake.
    Hours { model: Name, asleep: Option<TimeOfDay> },
    /// An event of one run. `step` drops it unless `generation` is that of the live run.
    Of { model: Name, generation: Generation, signed: Signed },
    /// What an earlier supervisor knew about a model. Comes before its `Adopt` and before `Boot`.
    Recall {
        model: Name,
        /// Restarts after failures so far.
        restarts: u32,
        /// A person stopped it, so `Boot` must not start it.
        by_hand: bool,
        /// A person started it outside its hours.
        up_late: bool,
    },
    /// A backend of an earlier supervisor was found alive; `run.adopted` is set.
    Adopt { model: Name, run: Run },
    /// Sent at [`Fleet::deadline`](super::Fleet::deadline), or later.
    Tick,
    /// The machine slept for this long: deadlines for work are extended, deadlines in wall time are not.
    Slept(Duration),
    /// The registry changed: all models with their policies, in order. A model that is not listed is removed.
    Reload(Vec<(Name, Policy)>),
    /// Stops every model; `now` skips the drains. May be sent a second time with `now`.
    Shutdown { now: bool },
}

/// Something that happened to one run; always sent with the run's generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signed {
    /// The other machines of its cluster have room.
    Agreed,
    /// One of them has no room, or could not be asked.
    Refused(Failure),
    Spawned(Identity),
    /// There is no process: the system refused to start one.
    SpawnFailed(Failure),
    Listening(u16),
    /// It completed a token and owns its port.
    Answered,
    /// The process lives but cannot serve.
    Unhealthy(Failure),
    /// No request is in flight any longer.
    Drained,
    /// Its whole process group has ended.
    Gone {
        exit: Exit,
        /// The cause according to its log; `None`: the log names none.
        diagnosis: Option<Failure>,
    },
}
