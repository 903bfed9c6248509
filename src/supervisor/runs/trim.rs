//! Memory that a person asks a backend to give back.

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use crate::api::client::GIVING_UP;
use crate::backend::launcher;
use crate::backend::link::{Reply, Request};
use crate::backend::probe::Question;
use crate::units::Bytes;

/// What the launcher gave back; `None`: it did not answer.
pub(super) async fn trim(questions: mpsc::Sender<Question>, request: Request) -> Option<Bytes> {
    let (reply, answered) = oneshot::channel();
    let asked = questions.send((request, reply)).await;
    match tokio::time::timeout(GIVING_UP, answered).await {
        Ok(Ok(Reply::Trim { freed } | Reply::Release { freed })) if asked.is_ok() => freed.map(Bytes),
        _ => None,
    }
}

/// The backend, if there is one, gives its kept prompts up unwritten; then the files in `folder` go, whoever wrote them.
pub(super) async fn forget(
    questions: Option<mpsc::Sender<Question>>,
    folder: PathBuf,
) -> Result<Bytes, String> {
    if let Some(questions) = questions {
        let (reply, answered) = oneshot::channel();
        if questions.send((Request::Forget, reply)).await.is_ok() {
            // A launcher that cannot, or does not answer: its files are deleted below all the same.
            let _ = tokio::time::timeout(GIVING_UP, answered).await;
        }
    }
    let deleted = tokio::task::spawn_blocking(move || launcher::forget(&folder)).await;
    deleted.map_err(|error| error.to_string()).and_then(|freed| freed.map_err(|error| error.to_string()))
}
