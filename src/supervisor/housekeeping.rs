//! What is done now and then: logs are put aside while they are written, and what a full disk kept from being written
//! is written.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;

use super::driver::Driver;
use super::handle::Input;
use super::slot::log_file;
use crate::backend::link::{Reply, Request};
use crate::backend::logs;
use crate::backend::logs::Aside;
use crate::clock::beat;
use crate::lifecycle::{Generation, Name};

/// Between two looks. A log may grow by what is written meanwhile.
const BETWEEN: Duration = Duration::from_secs(10);

/// How long a launcher may take to open a file.
const ANSWER: Duration = Duration::from_secs(10);

impl Driver {
    /// Looks at files, if it is time.
    pub fn keep_house(&mut self) {
        let now = self.host.now();
        if now < self.upkeep {
            return;
        }
        // A model that sleeps or wakes up does so on time.
        let hours = self.keep_hours();
        self.upkeep = now.after(hours.into_iter().fold(beat::wait(BETWEEN), Duration::min));
        self.journal.try_again();
        self.learned.try_again();
        self.stop_forgotten();
        self.keep(true);
        self.look_for_trouble();
        let names: Vec<Name> = self.slots.keys().cloned().collect();
        for name in names {
            self.rotate(&name);
        }
        self.look_for_files();
        self.rest();
        let own = self.registry.agent.log.clone();
        if let Err(error) = rotate_own(&own) {
            tracing::warn!(%error, log = %own.display(), "my own log is not put aside");
        }
    }

    /// Puts the log of a live run aside if it is large, and has its launcher open a new one. Asked again until it
    /// says that it has: also after a supervisor that died in between. What was put aside is bounded once nobody writes it.
    fn rotate(&mut self, name: &Name) {
        let log = log_file(&self.registry.paths.logs, name);
        let stray = self.stray_of(name).is_some();
        let Some(run) = self.slots.get_mut(name).and_then(|slot| slot.run.as_mut()) else {
            if !stray {
                trim(log, Aside::All);
            }
            return;
        };
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
        let (generation, questions, inbox) = (run.generation, run.questions.clone(), self.inbox.clone());
        let name = name.clone();
        let task = tokio::spawn(async move {
            let (reply, answered) = oneshot::channel();
            let asked = questions.send((Request::ReopenLog, reply)).await.is_ok();
            let answer = tokio::time::timeout(ANSWER, answered).await;
            let done = asked && matches!(answer, Ok(Ok(Reply::ReopenLog)));
            if done {
                trim(log, Aside::Old);
            }
            let _ = inbox.send(Input::LogReopened(name, generation, done));
        });
        run.tasks.push(task.abort_handle());
    }

    /// What came of it.
    pub fn log_reopened(&mut self, name: &Name, generation: Generation, done: bool) {
        let Some(run) = self.slots.get_mut(name).and_then(|slot| slot.run.as_mut()) else { return };
        if run.generation == generation {
            run.reopening = false;
            tracing::debug!(model = &**name, done, "a log was put aside");
        }
    }
}

/// Bounds what was put aside, on another thread: after a burst it may take a while. Nearly always it is a few `stat`s.
fn trim(log: PathBuf, which: Aside) {
    if !logs::oversized(&log, which) {
        return;
    }
    tokio::task::spawn_blocking(move || {
        if let Err(error) = logs::trim(&log, which) {
            tracing::warn!(%error, "a large log that was put aside stays as it is");
        }
    });
}

/// Puts our own log aside, if what we say goes there: launchd opens it for us, once.
fn rotate_own(log: &Path) -> std::io::Result<()> {
    if !logs::too_large(log) {
        return Ok(());
    }
    let there = fs_err::metadata(log)?;
    let is_there = |fd: std::io::Result<std::os::fd::OwnedFd>| {
        fd.and_then(|fd| std::fs::File::from(fd).metadata())
            .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    };
    use std::os::fd::AsFd;
    let stdout = is_there(std::io::stdout().as_fd().try_clone_to_owned());
    let stderr = is_there(std::io::stderr().as_fd().try_clone_to_owned());
    if !stdout && !stderr {
        return Ok(());
    }
    logs::rotate(log)?;
    let fresh = fs_err::OpenOptions::new().create(true).append(true).open(log)?;
    if stdout {
        nix::unistd::dup2_stdout(&fresh)?;
    }
    if stderr {
        nix::unistd::dup2_stderr(&fresh)?;
    }
    trim(log.to_owned(), Aside::Old);
    Ok(())
}
