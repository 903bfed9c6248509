//! How a request ended.

use crate::gate::wire::Refusal;

/// What is left to do for its client.
pub(super) enum Outcome {
    /// The client has its answer, and the connection can be reused.
    Answered,
    /// Nothing has been sent to the client yet.
    Refused(Box<Refusal>),
    /// The connection cannot be used any more.
    Over,
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}
