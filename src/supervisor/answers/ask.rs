//! Questions and commands to the loop.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api::{
    ApiError, Change, CommandDone, EventRecord, ModelStatus, StartRequest, Status, StopRequest,
};
use crate::metrics::Snapshot;
use crate::page::Press;
use crate::registry::Registry;

/// A question or command, with the channel for its answer.
pub(crate) enum Ask {
    Status(oneshot::Sender<Status>),
    Metrics(oneshot::Sender<Snapshot>),
    Model(String, oneshot::Sender<Option<ModelStatus>>),
    Start(String, StartRequest, Answer<CommandDone>),
    /// A start that was refused once, repeated with fresh readings.
    StartAgain(String, StartRequest, Answer<CommandDone>),
    Stop(String, StopRequest, Answer<CommandDone>),
    Restart(String, StopRequest, Answer<CommandDone>),
    /// A button of the page was pressed: the model, the button, the name of the key. Only noted in the history.
    Pressed(String, Press, String),
    Trim(String, Answer<CommandDone>),
    Forget(String, Answer<CommandDone>),
    Reload(Result<Box<Registry>, String>, bool, Answer<Vec<Change>>),
    Events(Option<u64>, usize, oneshot::Sender<Vec<EventRecord>>),
    Follow(mpsc::Sender<EventRecord>),
    Shutdown {
        now: bool,
    },
    Handover(Option<Hold>),
}

/// A hand-over after which the service manager unloads the job: the supervisor waits for SIGTERM, so that the manager
/// does not start another one in between.
pub(crate) struct Hold {
    /// How long it waits for SIGTERM once nothing is in flight.
    pub time: Duration,
    /// Notified when nothing is in flight.
    pub ready: oneshot::Sender<()>,
}

/// The channel for a command's answer.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, ApiError>>;
