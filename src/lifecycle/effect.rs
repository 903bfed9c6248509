//! Effects: what the fleet decides on and only the driver does.

use super::state::{Failure, Generation, Name, Run, StopReason};
use crate::host::Signal;
use crate::units::Bytes;

/// Something for the driver to do, in the order given.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub(crate) enum Effect {
    /// Ask the other machines of the model's cluster for room. Answered by `Agreed` or `Refused`.
    Ask { model: Name, generation: Generation },
    /// Start a process. Answered by `Spawned` or `SpawnFailed`.
    Spawn { model: Name, generation: Generation, reserved: Bytes },
    /// Accept no new requests; send `Drained` when nothing is in flight.
    Drain { model: Name, generation: Generation },
    /// Cut requests in flight; `why`, one sentence, goes to their clients.
    Abort { model: Name, generation: Generation, why: String },
    /// Send `signal` to the run's process group.
    Signal { model: Name, run: Run, signal: Signal },
    /// Answer a waiter, once.
    Reply { waiter: WaiterId, outcome: Outcome },
    /// Append an event to the history.
    Note {
        /// `None`: the event is about the supervisor.
        model: Option<Name>,
        /// One word, as in `mlxctl events`.
        kind: &'static str,
        text: String,
        hint: Option<String>,
    },
    /// Every run has ended and no new one will start.
    Finished,
}

/// Identifies a command that is waiting for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WaiterId(pub u64);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The model is ready; `changed`: the command did something.
    Ready { changed: bool },
    /// The start was granted, and the command did not wait for more.
    Granted,
    /// The model is down; `changed`: the command did something.
    Down { changed: bool },
    /// The start was refused, or it failed.
    Failed(Failure),
    /// Another command, or the end of the supervisor, took precedence.
    Superseded(StopReason),
    /// The command's timeout passed; the start continues.
    TimedOut,
    /// The fleet has no model of this name.
    Unknown,
}
