//! News from the tasks that attend to backends.

use std::sync::Arc;

use crate::host::Identity;
use crate::lifecycle::{Event, Generation, Name};

/// One piece of news, which the loop passes back in.
pub(crate) enum News {
    /// From a probe, an exit watch or a drain, for the fleet.
    Event(Event),
    /// Whether the launcher of a run has opened a new log, for [`super::Slot::log_reopened`].
    LogReopened(Name, Generation, bool),
    /// A process that belonged to no run has ended, for [`super::Runs::stray_gone`].
    StrayGone(Name, Identity),
}

/// Sends news to the loop, from any task.
pub(crate) type Report = Arc<dyn Fn(News) + Send + Sync>;
