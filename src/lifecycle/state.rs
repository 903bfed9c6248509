//! What a model is doing. Data lives inside the variants, so that a wrong state cannot be written down.

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

/// A model's name; the key of everything here.
pub(crate) type Name = Arc<str>;

/// Counts a model's runs, from 1, across supervisors. An event of another generation is stale.
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

/// A start that was granted: from here on its bytes are reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Of the run to be.
    pub generation: Generation,
    /// What admission granted.
    pub reserved: Bytes,
    /// Whether it went past a refusal.
    pub forced: bool,
}

/// One life of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// Its number.
    pub generation: Generation,
    /// Its process, which leads its own group.
    pub identity: Identity,
    /// What admission granted.
    pub reserved: Bytes,
    /// Whether it went past a refusal.
    pub forced: bool,
    /// When it was spawned.
    pub spawned: Moment,
    /// Its port on loopback, once it listens.
    pub port: Option<u16>,
    /// Whether this supervisor found it running.
    pub adopted: bool,
}

/// What a model is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// No process, and nothing will make one by itself.
    Stopped {
        /// Why not.
        why: StopReason,
    },
    /// There is room here; the other machines of its cluster are asked.
    Asking {
        /// What was granted here.
        grant: Grant,
        /// Who wanted it.
        cause: Cause,
    },
    /// The process is being made.
    Spawning {
        grant: Grant,
        /// What shall follow instead of loading, if a command came meanwhile.
        instead: Option<Next>,
    },
    /// It reads its weights. Listening is not ready.
    Loading {
        run: Run,
        /// When it must have completed a token.
        deadline: Moment,
    },
    /// It has completed a token and owns its port.
    Ready {
        run: Run,
        /// Since when.
        since: Moment,
    },
    /// It finishes what is in flight and takes nothing new.
    Draining {
        run: Run,
        /// When the rest is cut.
        deadline: Moment,
        /// What follows.
        next: Next,
    },
    /// It was told to end.
    Stopping {
        run: Run,
        /// How it was told.
        rung: Rung,
        /// When it is told more firmly.
        deadline: Moment,
        /// What follows.
        next: Next,
    },
    /// It is down and comes back.
    Backoff {
        /// Failures in a row.
        attempt: u32,
        /// When it comes back.
        until: Moment,
        /// Why it is down.
        last: Failure,
    },
    /// It is down and stays down until someone acts.
    Failed {
        /// Why.
        last: Failure,
    },
}

/// Who wanted a start, which decides what its refusal by another machine leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A person, who is told; the model goes back to what it did.
    Person(Box<State>),
    /// The supervisor; the model waits, as after every refusal.
    Supervisor,
    /// The end of a backoff, which counts as a restart once it is agreed to.
    Backoff,
}

/// Why a stopped model is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Nobody has started it yet.
    NeverStarted,
    /// `mlxctl stop`.
    ByHand,
    /// The supervisor ends.
    Shutdown,
    /// Memory pressure, or a program that models yield to.
    Pressure,
    /// The machine runs on its battery or saves power, and the registry wants no manual model then.
    Power,
    /// Nobody asked it anything for this time, the registry's `stop.idle`.
    Idle(Duration),
    /// The time of `mlxctl start --for` is over.
    TimeOver(Duration),
    /// It is outside its hours, which begin again at this time.
    Hours(TimeOfDay),
    /// It is no longer in the registry.
    Removed,
}

/// How firmly a process was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// SIGTERM: the launcher tears down.
    Term,
    /// SIGKILL: the last rung, since it can strand wired memory on a Mac (jundot/omlx 2184).
    Kill,
}

/// What follows when a run that is being stopped is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// It stays down.
    Stop(StopReason),
    /// It is started again, by command.
    Restart {
        /// Whether past a refusal.
        force: bool,
    },
    /// It was stopped because it failed: what a crash would lead to.
    Recover(Failure),
}

/// What went wrong with a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// In a class.
    pub kind: FailureKind,
    /// In one sentence, with the telling log line where there is one.
    pub text: String,
    /// More of it, in lines: a refusal's terms, the log's tail.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The classes of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// Something that a start needs is not there, or cannot be used yet: venv, disk space, permission.
    NotPrepared,
    /// The files that it serves are not on this disk. No later try helps before somebody brings them, so there is none.
    FilesMissing,
    /// The process could not be made.
    SpawnFailed,
    /// It ended by itself.
    Crashed,
    /// The model could not be loaded; the process stays.
    LoadFailed,
    /// No token within the load time.
    LoadTimeout,
    /// The generation thread died; the process stays.
    ThreadDied,
    /// No progress within the hang time.
    Hung,
    /// Nobody, or a stranger, listens on its port.
    PortLost,
    /// Its memory passed the ceiling.
    OverCeiling,
    /// Admission refused it.
    Refused,
}

impl State {
    /// In one word.
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

    /// Whether its start went past a refusal.
    pub(crate) fn forced(&self) -> bool {
        match self {
            Self::Asking { grant, .. } | Self::Spawning { grant, .. } => grant.forced,
            other => other.run().is_some_and(|run| run.forced),
        }
    }

    /// The generation whose events it hears.
    pub(crate) fn generation(&self) -> Option<Generation> {
        match self {
            Self::Asking { grant, .. } | Self::Spawning { grant, .. } => Some(grant.generation),
            other => other.run().map(|run| run.generation),
        }
    }

    /// When time alone changes it.
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
    /// A failure that is said in one sentence.
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
    /// For `status`.
    pub(crate) fn text(self) -> Cow<'static, str> {
        let text = match self {
            Self::NeverStarted => "not started",
            Self::ByHand => "stopped by hand",
            Self::Shutdown => "the supervisor is shutting down",
            Self::Pressure => "stopped to give memory back",
            Self::Power => "stopped to save power",
            Self::Idle(time) => return format!("idle for {}, as the registry says", human(time)).into(),
            Self::TimeOver(time) => return format!("its time of {} is over", human(time)).into(),
            Self::Hours(until) => return format!("asleep until {until}").into(),
            Self::Removed => "no longer in the registry",
        };
        text.into()
    }
}

/// A duration for people, to the second above ten of them.
pub(super) fn human(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
