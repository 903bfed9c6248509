//! Rotates the logs of backends while they are being written.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::attendance::RunTasks;
use super::news::{News, Report};
use crate::backend::link::{Reply, Request};
use crate::backend::logs;
use crate::backend::logs::Aside;
use crate::lifecycle::Name;
use crate::supervisor::records::trim;

/// Longest time for a launcher to open its new log.
const ANSWER: Duration = Duration::from_secs(10);

/// Rotates the log of a live run if it is large, and has its launcher open a new one. Repeated until the launcher has
/// done so, even after a supervisor died in between. Rotated files are cut down once they are no longer written.
pub(super) fn rotate(name: &Name, log: PathBuf, run: &mut RunTasks, report: &Report) {
    if run.reopening {
        return;
    }
    if let Err(error) = logs::rotate(&log) {
        tracing::warn!(%error, model = &**name, "a log could not be rotated");
        return;
    }
    if log.exists() {
        trim(log, Aside::Old);
        return;
    }
    run.reopening = true;
    let (generation, questions, report) = (run.generation, run.questions.clone(), report.clone());
    let name = name.clone();
    let task = tokio::spawn(async move {
        let (reply, answered) = oneshot::channel();
        let asked = questions.send((Request::ReopenLog, reply)).await.is_ok();
        let answer = tokio::time::timeout(ANSWER, answered).await;
        let done = asked && matches!(answer, Ok(Ok(Reply::ReopenLog)));
        if done {
            trim(log, Aside::Old);
        }
        report(News::LogReopened(name, generation, done));
    });
    run.tasks.push(task.abort_handle());
}
