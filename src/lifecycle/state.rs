//! What a model is doing. Data is inside the variants, so that an invalid state cannot be represented.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::StateName;
use crate::clock::Moment;
use crate::clock::hours::TimeOfDay;
use crate::host::Identity;
use crate::units::Bytes;

/// A model's name in the registry.
pub(crate) type Name = Arc<str>;

/// The number of a run: counts from 1 per model, across supervisors. An event of another generation is stale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Generation(pub u64);

impl Generation {
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A granted start, whose bytes are reserved from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The number that the run will have.
    pub generation: Generation,
    pub reserved: Bytes,
    /// Whether `--force` overrode a refusal.
    pub forced: bool,
}

/// A live backend process, from its spawn to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub generation: Generation,
    /// The process, which leads its own process group.
    pub identity: Identity,
    pub reserved: Bytes,
    /// Whether `--force` overrode a refusal.
    pub forced: bool,
    pub spawned: Moment,
    /// Its port on loopback, once it listens.
    pub port: Option<u16>,
    /// Whether this supervisor found it running.
    pub adopted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// There is no process, and none is started until an event asks for it.
    Stopped { why: StopReason },
    /// There is room on this machine, and the other machines of its cluster are being asked.
    Asking { grant: Grant, cause: Cause },
    /// The process is being started.
    Spawning {
        grant: Grant,
        /// What follows instead of loading, if a command has come in the meantime.
        instead: Option<Next>,
    },
    /// It is loading its weights. A backend that listens is not ready yet.
    Loading {
        run: Run,
        /// When it must have completed a token.
        deadline: Moment,
    },
    /// It has completed a token and owns its port.
    Ready { run: Run, since: Moment },
    /// It finishes the requests in flight and accepts no new ones.
    Draining {
        run: Run,
        /// When requests still in flight are cut.
        deadline: Moment,
        next: Next,
    },
    /// Its process group was signalled.
    Stopping {
        run: Run,
        rung: Rung,
        /// When SIGKILL follows, or is repeated.
        deadline: Moment,
        next: Next,
    },
    /// It is down after a failure and will be restarted.
    Backoff {
        /// Failures in a row; 0: the last run was stable.
        attempt: u32,
        until: Moment,
        last: Failure,
    },
    /// It is down after a failure until a person acts or its files arrive.
    Failed { last: Failure },
}

/// Who wanted a start; decides what follows if another machine refuses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A person, who is answered; the model returns to the state given.
    Person(Box<State>),
    /// The supervisor; the model backs off, as after any refusal.
    Supervisor,
    /// The end of a backoff; counts as a restart once the machines agree.
    Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    NeverStarted,
    /// A person stopped it, by `mlxctl stop` or on the page.
    ByHand,
    Shutdown,
    /// Memory pressure, or a program that models yield to.
    Pressure,
    /// The machine is on battery or saves power, and the registry stops manual models then.
    Power,
    /// It had no request for this time, the registry's `stop.idle`.
    Idle(Duration),
    /// This time, given by `mlxctl start --for`, is over.
    TimeOver(Duration),
    /// It is outside its hours, which begin at this time.
    Hours(TimeOfDay),
    /// It is no longer in the registry.
    Removed,
}

/// The signal that a process was last sent to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// SIGTERM: the launcher tears the server down.
    Term,
    /// SIGKILL: the last resort, since it can strand wired memory on a Mac (jundot/omlx 2184).
    Kill,
}

/// What follows once a run that is being stopped has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Stop(StopReason),
    /// It is started again, by command; `force` overrides a refusal.
    Restart {
        force: bool,
    },
    /// It was stopped because it failed: continue as after a crash.
    Recover(Failure),
}

/// What went wrong with a run or a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    /// One sentence, with the decisive log line if there is one.
    pub text: String,
    /// Further lines: the terms of a refusal, the tail of the log.
    pub detail: Option<String>,
    /// What a person can do about it.
    pub hint: Option<String>,
}

/// The class of a failure, which decides how the model continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// Something that a start needs is missing or not usable yet: venv, disk space, permission.
    NotPrepared,
    /// The model files are not on this disk. The start is not retried until they are.
    FilesMissing,
    /// The system refused to start a process.
    SpawnFailed,
    /// The process ended without being told to.
    Crashed,
    /// The model could not be loaded; the process still runs.
    LoadFailed,
    /// No token was completed within `health.load_timeout`.
    LoadTimeout,
    /// The generation thread died; the process still runs.
    ThreadDied,
    /// No progress was made within `health.hang_after`.
    Hung,
    /// It does not listen on its port, or another process does.
    PortLost,
    /// Its memory exceeded the ceiling, and trimming did not help.
    OverCeiling,
    Refused,
}

impl State {
    pub(crate) fn name(&self) -> StateName {
        match self {
            Self::Stopped { .. } => StateName::Stopped,
            Self::Asking { .. } | Self::Spawning { .. } => StateName::Spawning,
            Self::Loading { .. } => StateName::Loading,
            Self::Ready { .. } => StateName::Ready,
            Self::Draining { .. } => StateName::Draining,
            Self::Stopping { .. } => StateName::Stopping,
            Self::Backoff { .. } => StateName::Backoff,
            Self::Failed { .. } => StateName::Failed,
        }
    }

    /// The live run, if there is one.
    pub(crate) fn run(&self) -> Option<&Run> {
        match self {
            Self::Loading { run, .. }
            | Self::Ready { run, .. }
            | Self::Draining { run, .. }
            | Self::Stopping { run, .. } => Some(run),
            Self::Stopped { .. }
            | Self::Asking { .. }
            | Self::Spawning { .. }
            | Self::Backoff { .. }
            | Self::Failed { .. } => None,
        }
    }

    pub(crate) fn reserved(&self) -> Bytes {
        match self {
            Self::Asking { grant, .. } | Self::Spawning { grant, .. } => grant.reserved,
            other => other.run().map_or(Bytes::ZERO, |run| run.reserved),
        }
    }

    /// Whether its start overrode a refusal.
    pub(crate) fn forced(&self) -> bool {
        match self {
            Self::Asking { grant, .. } | Self::Spawning { grant, .. } => grant.forced,
            other => other.run().is_some_and(|run| run.forced),
        }
    }

    /// The generation of its live run or granted start, whose events count; `None`: it has neither.
    pub(crate) fn generation(&self) -> Option<Generation> {
        match self {
            Self::Asking { grant, .. } | Self::Spawning { grant, .. } => Some(grant.generation),
            other => other.run().map(|run| run.generation),
        }
    }

    /// When the passing of time changes the state; `None`: it does not.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        match self {
            Self::Loading { deadline, .. }
            | Self::Draining { deadline, .. }
            | Self::Stopping { deadline, .. }
            | Self::Backoff { until: deadline, .. } => Some(*deadline),
            Self::Stopped { .. }
            | Self::Asking { .. }
            | Self::Spawning { .. }
            | Self::Ready { .. }
            | Self::Failed { .. } => None,
        }
    }
}

impl Failure {
    /// A failure without detail or hint; `text` is one sentence.
    pub(crate) fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), detail: None, hint: None }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl StopReason {
    /// The reason that `status` shows and that a `stopped` event carries.
    pub(crate) fn text(self) -> Cow<'static, str> {
        let text = match self {
            Self::NeverStarted => "not started",
            Self::ByHand => "stopped by hand",
            Self::Shutdown => "the supervisor is shutting down",
            Self::Pressure => "stopped to free memory",
            Self::Power => "stopped to save power",
            Self::Idle(time) => return format!("idle for {} (stop.idle)", human(time)).into(),
            Self::TimeOver(time) => return format!("its time of {} is over", human(time)).into(),
            Self::Hours(until) => return format!("asleep until {until}").into(),
            Self::Removed => "no longer in the registry",
        };
        text.into()
    }
}

/// A duration for people: tenths below 10 s, whole seconds from there.
pub(super) fn human(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
