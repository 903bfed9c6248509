//! The page for a browser, on the phone too: how the models are, their last hour, what happened, and two buttons for
//! those who have a key for them.
//!
//! Nothing runs for it while nobody watches: there is a listener that waits for a connection, and no timer. The last hour
//! is read from the access logs when somebody begins to watch, not kept.

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
    /// As a command line would say it.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

/// Who knows everything that is shown, and does what a button says. The supervisor does; it lies above this folder.
pub(crate) trait Source: metrics::Source {
    /// The newest events, oldest first.
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
