//! What comes of looking at memory and power.

use crate::host::Priority;
use crate::lifecycle::{Event, Name};
use crate::supervisor::records::Note;

/// What the loop shall do, in order.
pub(crate) enum Step {
    Note(Note),
    Event(Event),
    /// Tell the gates what holds for them now.
    Publish,
    /// Put all backends on this rung.
    Prioritise(Priority),
    /// Have a model's buffer cache emptied.
    EmptyCache(Name),
    /// Have as much of a model's cached memory given back as costs no request.
    GiveBack(Name),
}
