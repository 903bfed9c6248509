//! The interface of the loop for the rest of the program. Every question is answered exactly once; an asker that is gone
//! is not an error.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::answers::{Answer, Ask, Hold};
use super::inbox::Input;
use crate::api::{
    ApiError, Change, CommandDone, ErrorCode, EventRecord, ModelStatus, StartRequest, Status, StopRequest,
};
use crate::metrics::{Snapshot, Source};
use crate::page::{self, Press};
use crate::registry::Registry;

/// Sends questions and commands to the loop; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::UnboundedSender<Input>,
}

impl Source for Handle {
    async fn snapshot(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.tell(Ask::Metrics(reply));
        answer.await.ok()
    }
}

impl page::Source for Handle {
    async fn newest(&self, limit: usize) -> Vec<EventRecord> {
        self.events(None, limit).await
    }

    fn coming(&self) -> mpsc::Receiver<EventRecord> {
        self.follow()
    }

    async fn press(&self, press: Press, model: &str, key: &str) -> Result<CommandDone, ApiError> {
        self.tell(Ask::Pressed(model.to_owned(), press, key.to_owned()));
        match press {
            Press::Start => self.start(model, StartRequest::default()).await,
            Press::Stop => self.stop(model, StopRequest::default()).await,
        }
    }
}

impl Handle {
    pub(super) fn new(inbox: mpsc::UnboundedSender<Input>) -> Self {
        Self { inbox }
    }

    /// The document of `mlxctl status --json`; `None` when the loop has ended.
    pub async fn status(&self) -> Option<Status> {
        let (reply, answer) = oneshot::channel();
        self.tell(Ask::Status(reply));
        answer.await.ok()
    }

    /// One model's part of [`Handle::status`]; `None` also if there is no such model.
    pub async fn model(&self, model: &str) -> Option<ModelStatus> {
        let (reply, answer) = oneshot::channel();
        self.tell(Ask::Model(model.to_owned(), reply));
        answer.await.ok().flatten()
    }

    /// Starts a model, as `mlxctl start` does.
    ///
    /// # Errors
    /// The model is unknown, the start is refused, fails or times out, or the supervisor ends.
    pub async fn start(&self, model: &str, request: StartRequest) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Start(model.to_owned(), request, answer)).await
    }

    /// Stops a model, as `mlxctl stop` does.
    ///
    /// # Errors
    /// The model is unknown, or the supervisor ends.
    pub async fn stop(&self, model: &str, request: StopRequest) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Stop(model.to_owned(), request, answer)).await
    }

    /// Restarts a model, as `mlxctl restart` does.
    ///
    /// # Errors
    /// As [`Handle::start`].
    pub async fn restart(&self, model: &str, request: StopRequest) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Restart(model.to_owned(), request, answer)).await
    }

    /// Releases the cached memory of a model, as `mlxctl trim` does.
    ///
    /// # Errors
    /// The model is unknown or not running, or its launcher does not answer.
    pub async fn trim(&self, model: &str) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Trim(model.to_owned(), answer)).await
    }

    /// Drops and deletes the kept prompts of a model, running or not, as `mlxctl trim --forget` does.
    ///
    /// # Errors
    /// The model is unknown, or files cannot be deleted.
    pub async fn forget(&self, model: &str) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Forget(model.to_owned(), answer)).await
    }

    /// Applies a registry; `Err` is why the file on disk is invalid. A dry run only returns what would change.
    ///
    /// # Errors
    /// The registry is invalid; the previous version stays in effect.
    pub async fn reload(
        &self,
        registry: Result<Box<Registry>, String>,
        dry_run: bool,
    ) -> Result<Vec<Change>, ApiError> {
        self.ask(|answer| Ask::Reload(registry, dry_run, answer)).await
    }

    /// The first `limit` events after number `after`; without it the newest. Oldest first.
    pub async fn events(&self, after: Option<u64>, limit: usize) -> Vec<EventRecord> {
        let (reply, answer) = oneshot::channel();
        self.tell(Ask::Events(after, limit, reply));
        answer.await.unwrap_or_default()
    }

    /// All events from now on, until the receiver is dropped or falls 256 events behind.
    pub fn follow(&self) -> mpsc::Receiver<EventRecord> {
        let (sender, receiver) = mpsc::channel(256);
        self.tell(Ask::Follow(sender));
        receiver
    }

    /// Stops every backend, then ends the loop; `now` skips the drains and may be sent in a second call. During a hand-over
    /// the loop ends at once, and the backends stay up.
    pub fn shutdown(&self, now: bool) {
        self.tell(Ask::Shutdown { now });
    }

    /// Ends the loop and leaves the backends to the next supervisor.
    pub fn hand_over(&self) {
        self.tell(Ask::Handover(None));
    }

    /// As [`Handle::hand_over`], but the loop stays until SIGTERM, for up to `time`. Returns once nothing is in flight.
    pub async fn hand_over_and_hold(&self, time: Duration) {
        let (ready, is_ready) = oneshot::channel();
        self.tell(Ask::Handover(Some(Hold { time, ready })));
        // If it was dropped, the loop has already ended.
        let _ = is_ready.await;
    }

    fn tell(&self, ask: Ask) {
        // If the loop has ended, the dropped answer tells the asker.
        let _ = self.inbox.send(Input::Ask(ask));
    }

    async fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.tell(ask(reply));
        answer.await.unwrap_or_else(|_| {
            Err(ApiError {
                code: ErrorCode::Refused,
                message: "the supervisor is shutting down".into(),
                hint: None,
            })
        })
    }
}
