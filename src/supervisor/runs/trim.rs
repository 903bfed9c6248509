//! Releases memory of a backend on a person's command.

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use crate::api::client::GIVING_UP;
use crate::backend::launcher;
use crate::backend::link::{Reply, Request};
use crate::backend::probe::Question;
use crate::units::Bytes;

/// Sends a trim request; returns the bytes released, or `None` if the launcher did not answer.
pub(super) async fn trim(questions: mpsc::Sender<Question>, request: Request) -> Option<Bytes> {
    let (reply, answered) = oneshot::channel();
    let asked = questions.send((request, reply)).await;
    match tokio::time::timeout(GIVING_UP, answered).await {
        Ok(Ok(Reply::Trim { freed } | Reply::Release { freed })) if asked.is_ok() => freed.map(Bytes),
        _ => None,
    }
}

/// Has the backend, if there is one, drop its kept prompts unwritten, then deletes the files in `folder`. Returns the
/// bytes freed on disk.
pub(super) async fn forget(
    questions: Option<mpsc::Sender<Question>>,
    folder: PathBuf,
) -> Result<Bytes, String> {
    if let Some(questions) = questions {
        let (reply, answered) = oneshot::channel();
        if questions.send((Request::Forget, reply)).await.is_ok() {
            // Whatever the launcher answers, if it does, the files are deleted below.
            let _ = tokio::time::timeout(GIVING_UP, answered).await;
        }
    }
    let deleted = tokio::task::spawn_blocking(move || launcher::forget(&folder)).await;
    deleted.map_err(|error| error.to_string()).and_then(|freed| freed.map_err(|error| error.to_string()))
}
