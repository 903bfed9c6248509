//! What shall be done. Only the driver does it.

use super::state::{Failure, Generation, Name, Run, StopReason};
use crate::host::Signal;
use crate::units::Bytes;

/// What shall be done.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub(crate) enum Effect {
    /// Ask the other machines of its cluster for room. Answered by `Agreed` or `Refused`.
    Ask { model: Name, generation: Generation },
    /// Make a process. Answered by `Spawned` or `SpawnFailed`.
    Spawn { model: Name, generation: Generation, reserved: Bytes },
    /// Take nothing new; say `Drained` when nothing is in flight.
    Drain { model: Name, generation: Generation },
    /// End what is in flight, telling the clients why.
    Abort {
        model: Name,
        generation: Generation,
        /// In one sentence.
        why: String,
    },
    /// Tell the run's process group.
    Signal { model: Name, run: Run, signal: Signal },
    /// Answer a waiter.
    Reply {
        /// Whom.
        waiter: WaiterId,
        outcome: Outcome,
    },
    /// Write into the history.
    Note {
        /// About which model; `None`: the supervisor.
        model: Option<Name>,
        /// One word.
        kind: &'static str,
        /// One sentence.
        text: String,
        hint: Option<String>,
    },
    /// Every run is gone and no new one will come.
    Finished,
}

/// One command that awaits its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WaiterId(pub u64);

/// The answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Ready {
        /// Whether the command did anything.
        changed: bool,
    },
    /// The start was granted; the rest was not waited for.
    Granted,
    Down {
        /// Whether the command did anything.
        changed: bool,
    },
    /// It was refused, or tried and failed.
    Failed(Failure),
    /// Another command, or the supervisor's end, went over it.
    Superseded(StopReason),
    /// Not in time; it goes on.
    TimedOut,
    /// No such model.
    Unknown,
}
