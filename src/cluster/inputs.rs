//! What happens to a conductor and to a rank: the messages that their loops take.

use super::frame::{Down, Up};
use crate::backend::link::{LinkEvent, Request};
use crate::host::Exit;

/// What happens to a conductor.
pub(super) enum ConductorInput {
    Up(Up),
    Text(Vec<u8>),
    Launch(Exit),
    Signal,
    Asked(Request),
}

/// What happens to a rank.
pub(super) enum RankInput {
    Down(Down),
    /// The conductor's end of the connection is closed, or a signal says so.
    Ended,
    Line(String),
    LinesEnded,
    Link(LinkEvent),
    Exited(Exit),
}
