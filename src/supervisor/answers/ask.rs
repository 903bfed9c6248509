//! What may be asked of the loop.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api::{
    ApiError, Change, CommandDone, EventRecord, ModelStatus, StartRequest, Status, StopRequest,
};
use crate::metrics::Snapshot;
use crate::page::Press;
use crate::registry::Registry;

/// A question with the place for its answer.
pub(crate) enum Ask {
    Status(oneshot::Sender<Status>),
    Metrics(oneshot::Sender<Snapshot>),
    Model(String, oneshot::Sender<Option<ModelStatus>>),
    Start(String, StartRequest, Answer<CommandDone>),
    /// The same start once more, with fresh readings.
    StartAgain(String, StartRequest, Answer<CommandDone>),
    Stop(String, StopRequest, Answer<CommandDone>),
    Restart(String, StopRequest, Answer<CommandDone>),
    /// A button of the page was pressed: on which model, which one, with the key of which name. It only notes that.
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

/// A hand-over after which the service manager unloads the job: the supervisor stays until it is told to end, so that
/// the manager does not start another one in between.
pub(crate) struct Hold {
    /// How long it stays for that, once nothing is in flight any more.
    pub time: Duration,
    /// Who waits to be told that nothing is.
    pub ready: oneshot::Sender<()>,
}

/// Where a command's answer goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, ApiError>>;
