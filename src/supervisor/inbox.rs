//! What comes into the loop.

use super::answers::{Answer, Ask};
use super::{capacity, runs};
use crate::api::CommandDone;
use crate::lifecycle::{Name, Outcome};
use crate::notify::Sent;
use crate::units::Bytes;

/// One at a time, in the order in which they were sent.
pub(super) enum Input {
    /// From the tasks beside backends.
    Runs(runs::News),
    /// From what looks at the machine and at others.
    Capacity(capacity::News),
    /// From the control API, or from the program itself.
    Ask(Ask),
    /// A command's outcome, whose answer shall show what is true after it.
    Outcome(Name, &'static str, Outcome, Answer<CommandDone>),
    /// What a trim gave back; `None`: the launcher did not answer.
    Trimmed(Name, Option<Bytes>, Answer<CommandDone>),
    /// What deleting a model's stored prompts freed, or why they could not be deleted.
    Forgotten(Name, Result<Bytes, String>, Answer<CommandDone>),
    /// What came of a notification.
    Notified(Sent),
}
