//! The inputs of the loop.

use super::answers::{Answer, Ask};
use super::{capacity, runs};
use crate::api::CommandDone;
use crate::lifecycle::{Name, Outcome};
use crate::notify::Sent;
use crate::units::Bytes;

/// One input; handled one at a time, in the order in which they were sent.
pub(super) enum Input {
    /// From the tasks that attend to backends.
    Runs(runs::News),
    /// From the tasks that check this machine and others.
    Capacity(capacity::News),
    /// From the control API, or from the program itself.
    Ask(Ask),
    /// The outcome of a command, whose answer has to show the state after it.
    Outcome(Name, &'static str, Outcome, Answer<CommandDone>),
    /// Bytes that a trim released; `None`: the launcher did not answer.
    Trimmed(Name, Option<Bytes>, Answer<CommandDone>),
    /// Bytes freed by deleting a model's stored prompts, or why they could not be deleted.
    Forgotten(Name, Result<Bytes, String>, Answer<CommandDone>),
    /// The result of sending a notification.
    Notified(Sent),
}
