//! Steps that follow from checks of memory and power.

use crate::host::Priority;
use crate::lifecycle::{Event, Name};
use crate::supervisor::records::Note;

/// Something for the loop to do, in order.
pub(crate) enum Step {
    Note(Note),
    Event(Event),
    /// Tell the gates their current availability.
    Publish,
    /// Set the priority of all backends.
    Prioritise(Priority),
    /// Empty a model's buffer cache.
    EmptyCache(Name),
    /// Release as much of a model's cached memory as possible without delaying a request.
    GiveBack(Name),
}
