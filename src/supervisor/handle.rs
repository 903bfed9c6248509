//! What the rest of the program may ask of the loop. Every question is answered exactly once; an asker that is
//! gone is no error.

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

/// A way into the loop.
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

    /// One model's part of it; `None` too when there is no such model.
    pub async fn model(&self, model: &str) -> Option<ModelStatus> {
        let (reply, answer) = oneshot::channel();
        self.tell(Ask::Model(model.to_owned(), reply));
        answer.await.ok().flatten()
    }

    /// `mlxctl start`.
    ///
    /// # Errors
    /// Unknown, refused, failed, too late, or the supervisor ends.
    pub async fn start(&self, model: &str, request: StartRequest) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Start(model.to_owned(), request, answer)).await
    }

    /// `mlxctl stop`.
    ///
    /// # Errors
    /// Unknown, or the supervisor ends.
    pub async fn stop(&self, model: &str, request: StopRequest) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Stop(model.to_owned(), request, answer)).await
    }

    /// `mlxctl restart`.
    pub async fn restart(&self, model: &str, request: StopRequest) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Restart(model.to_owned(), request, answer)).await
    }

    /// `mlxctl trim`.
    ///
    /// # Errors
    /// Unknown, or not running.
    pub async fn trim(&self, model: &str) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Trim(model.to_owned(), answer)).await
    }

    /// `mlxctl trim --forget`: of a model that does not run as well.
    ///
    /// # Errors
    /// Unknown, or files that cannot be deleted.
    pub async fn forget(&self, model: &str) -> Result<CommandDone, ApiError> {
        self.ask(|answer| Ask::Forget(model.to_owned(), answer)).await
    }

    /// Takes a registry in; `Err` is why the file on disk is none. A dry run only tells what would change.
    ///
    /// # Errors
    /// The file is no registry: the old one stays in force.
    pub async fn reload(
        &self,
        registry: Result<Box<Registry>, String>,
        dry_run: bool,
    ) -> Result<Vec<Change>, ApiError> {
        self.ask(|answer| Ask::Reload(registry, dry_run, answer)).await
    }

    /// The first `limit` events after a number, or the newest ones.
    pub async fn events(&self, after: Option<u64>, limit: usize) -> Vec<EventRecord> {
        let (reply, answer) = oneshot::channel();
        self.tell(Ask::Events(after, limit, reply));
        answer.await.unwrap_or_default()
    }

    /// Everything from now on, until the receiver is dropped or falls behind.
    pub fn follow(&self) -> mpsc::Receiver<EventRecord> {
        let (sender, receiver) = mpsc::channel(256);
        self.tell(Ask::Follow(sender));
        receiver
    }

    /// Everything down, then the loop ends. A second one, with `now`, skips the drains. While it hands over: it leaves
    /// at once, and the backends stay up.
    pub fn shutdown(&self, now: bool) {
        self.tell(Ask::Shutdown { now });
    }

    /// The loop ends and leaves the backends to the next supervisor.
    pub fn hand_over(&self) {
        self.tell(Ask::Handover(None));
    }

    /// The same, but once nothing is in flight any more, which this waits for, it stays until SIGTERM, `time` at most.
    pub async fn hand_over_and_hold(&self, time: Duration) {
        let (ready, is_ready) = oneshot::channel();
        self.tell(Ask::Handover(Some(Hold { time, ready })));
        // Dropped: it has left already.
        let _ = is_ready.await;
    }

    fn tell(&self, ask: Ask) {
        // The loop has ended: the asker notices by its answer's end.
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
