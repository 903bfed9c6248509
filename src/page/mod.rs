//! The page for a browser, also on a phone: the models' state, their last hour, what happened, and two buttons for
//! those who have a key for them.
//!
//! While no one watches, nothing runs for it but a listener that waits for a connection; there is no timer. The last
//! hour is not kept, but read from the access logs when someone begins to watch.

mod access;
mod hour;
mod serve;
mod sessions;
mod site;
mod stream;
mod view;
mod watched;

pub(crate) use serve::Listener;
use tokio::sync::mpsc;

use crate::api::{ApiError, CommandDone, EventRecord};
use crate::metrics;

/// What a button of the page does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Press {
    Start,
    Stop,
}

impl Press {
    /// The subcommand that does the same: `start`, `stop`.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

/// Provides everything that is shown, and does what a button says. The supervisor implements it, in a layer above this
/// one.
pub(crate) trait Source: metrics::Source {
    /// The newest `limit` events, oldest first.
    fn newest(&self, limit: usize) -> impl Future<Output = Vec<EventRecord>> + Send;

    /// Every event from now on, until the receiver is dropped or falls behind.
    fn coming(&self) -> mpsc::Receiver<EventRecord>;

    /// As `mlxctl start --no-wait` and `mlxctl stop`; `key`: the name of the key that it was pressed with.
    fn press(
        &self,
        press: Press,
        model: &str,
        key: &str,
    ) -> impl Future<Output = Result<CommandDone, ApiError>> + Send;
}
