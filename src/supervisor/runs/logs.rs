//! Logs of backends are put aside while they are written.

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

/// How long a launcher may take to open a file.
const ANSWER: Duration = Duration::from_secs(10);

/// Puts the log of a live run aside if it is large, and has its launcher open a new one. Asked again until it
/// says that it has: also after a supervisor that died in between. What was put aside is bounded once nobody writes it.
pub(super) fn rotate(name: &Name, log: PathBuf, run: &mut RunTasks, report: &Report) {
    if run.reopening {
        return;
    }
    if let Err(error) = logs::rotate(&log) {
        tracing::warn!(%error, model = &**name, "a log is not put aside");
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
