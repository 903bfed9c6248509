//! What comes back from the tasks beside backends.

use std::sync::Arc;

use crate::host::Identity;
use crate::lifecycle::{Event, Generation, Name};

/// For the loop to hand in again.
pub(crate) enum News {
    /// From a probe, an exit watch, a drain: for the fleet.
    Event(Event),
    /// Whether the launcher of a run has opened a new log: for [`super::Slot::log_reopened`].
    LogReopened(Name, Generation, bool),
    /// A process that belonged to no run is gone: for [`super::Runs::stray_gone`].
    StrayGone(Name, Identity),
}

/// Takes news, from any task.
pub(crate) type Report = Arc<dyn Fn(News) + Send + Sync>;
