//! Downloads a model's files from the hub. The environment's own `huggingface_hub` does the transfer, in a child that
//! asks before the first byte and before the weights; the decisions are made here.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::profile;
use super::script::Script;
use super::whole::{self, Flaw, Whole};
use super::{hub, process};
use crate::host::posix;
use crate::terminal;
use crate::units::Bytes;

/// Does the transfer; its request is a [`PullRequest`].
pub(super) const SCRIPT: Script = Script {
    main: include_str!("pull.py"),
    modules: &[("pull_hub", include_str!("pull_hub.py")), ("pull_files", include_str!("pull_files.py"))],
};

/// Kept free on the disk: a full one stops more than a download.
const KEEP_FREE: Bytes = Bytes::gb(1);

/// Interval between checks whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// How long the child may take to end after its stdin was closed; usually none.
const LAST_WORDS: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Serialize)]
pub(crate) struct PullRequest {
    #[serde(skip)]
    pub python: PathBuf,
    pub repo: String,
    /// How long to keep trying while nothing arrives, seconds, ≥ 0.
    pub patience_seconds: f64,
    /// Whether to check files in the cache, and fetch those again that differ from what the hub lists.
    pub verify: bool,
}

/// What the hub lists for a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Plan {
    pub cache: PathBuf,
    pub endpoint: String,
    pub commit: String,
    pub license: Option<String>,
    pub files: Vec<String>,
    pub bytes: Bytes,
    /// How much of that is in the cache already.
    pub there: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Planned(Plan),
    /// How much has arrived, including what was there before.
    Progress(Bytes),
    /// The hub does not answer, and is tried again; why.
    Waiting(String),
    /// A file in the cache differed from what the hub lists, and is fetched again.
    Damaged(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PullError {
    /// It was stopped; what has arrived stays.
    #[error("the download was interrupted")]
    Interrupted,
    /// There is not enough disk space; nothing was downloaded.
    #[error("there is too little disk space for {repo}")]
    NoRoom { repo: String, needed: Bytes, free: Bytes, cache: PathBuf },
    /// The model is not for mlx-lm, is damaged, or contains code.
    #[error("{repo} cannot be served")]
    Flawed { repo: String, flaw: Flaw },
    /// A failure that the child reports, or the child itself failed.
    #[error("{repo} could not be downloaded")]
    Failed {
        repo: String,
        kind: Kind,
        why: String,
        /// Whether an access token was sent.
        token: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Offline,
    /// Its licence must be accepted first.
    Gated,
    /// There is no such repository, or it is private.
    NotFound,
    /// The token does not give access to it.
    Unauthorized,
    /// The hub answered with an error.
    Hub,
    Network,
    /// Something else answered in place of the hub.
    Portal,
    /// The disk filled up on the way.
    DiskFull,
    /// Another download of it is running.
    Busy,
    /// What arrived differs from what the hub lists.
    Damaged,
    /// A file could not be read or written.
    Io,
    Unknown,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Message {
    Plan(Plan),
    Progress { done: Bytes },
    Waiting { why: String },
    Damaged { name: String },
    Described { folder: PathBuf },
    Done { folder: PathBuf },
    Failed { kind: Kind, why: String, token: bool },
}

/// Downloads the model's files and checks that they are complete. `stop` ends it; the next pull resumes from there.
///
/// # Errors
/// [`PullError`]; what was downloaded stays in the cache, unless it differs from what the hub lists.
pub(crate) fn pull(
    request: &PullRequest,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Step),
) -> Result<Whole, PullError> {
    let mut transfer = Transfer::start(request).map_err(|error| {
        failed(request, Kind::Io, format!("cannot run {}: {error}", request.python.display()))
    })?;
    let mut files = Vec::new();
    loop {
        match transfer.next(stop).ok_or(PullError::Interrupted)? {
            Some(Message::Plan(plan)) => {
                room(request, &plan)?;
                files.clone_from(&plan.files);
                progress(Step::Planned(plan));
                transfer.go_on();
            }
            Some(Message::Described { folder }) => {
                whole::check_description(&folder, &files).map_err(|flaw| flawed(request, flaw))?;
                if let Some(why) = profile::hopeless(&request.python, &folder) {
                    return Err(flawed(request, Flaw::Unserved(why)));
                }
                transfer.go_on();
            }
            Some(Message::Progress { done }) => progress(Step::Progress(done)),
            Some(Message::Waiting { why }) => progress(Step::Waiting(why)),
            Some(Message::Damaged { name }) => progress(Step::Damaged(name)),
            Some(Message::Done { folder }) => {
                return whole::check(&folder).map_err(|flaw| flawed(request, flaw));
            }
            Some(Message::Failed { kind, why, token }) => {
                return Err(PullError::Failed { repo: request.repo.clone(), kind, why, token });
            }
            None => return Err(failed(request, Kind::Unknown, transfer.last_line())),
        }
    }
}

fn failed(request: &PullRequest, kind: Kind, why: String) -> PullError {
    PullError::Failed { repo: request.repo.clone(), kind, why, token: false }
}

fn flawed(request: &PullRequest, flaw: Flaw) -> PullError {
    PullError::Flawed { repo: request.repo.clone(), flaw }
}

/// Checks that the rest fits on the disk.
fn room(request: &PullRequest, plan: &Plan) -> Result<(), PullError> {
    let needed = plan.bytes.saturating_sub(plan.there);
    match posix::free_space(&plan.cache) {
        Some(free) if !fits(needed, free) => {
            Err(PullError::NoRoom { repo: request.repo.clone(), needed, free, cache: plan.cache.clone() })
        }
        _ => Ok(()),
    }
}

/// Nothing to download always fits.
fn fits(needed: Bytes, free: Bytes) -> bool {
    needed == Bytes::ZERO || needed + KEEP_FREE <= free
}

struct Transfer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    complaints: Vec<String>,
}

/// A line of the child's stdout or stderr.
enum Line {
    Out(String),
    Err(String),
}

impl Transfer {
    fn start(request: &PullRequest) -> io::Result<Self> {
        let mut command = process::command(&request.python);
        command.args(SCRIPT.arguments(&serde_json::to_string(request)?));
        // The folder where backends will look for the files.
        command.envs(hub::cache_folder().map(|folder| ("HF_HUB_CACHE", folder)));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, lines) = mpsc::channel();
        read(child.stdout.take(), sender.clone(), Line::Out);
        read(child.stderr.take(), sender, Line::Err);
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, complaints: Vec::new() })
    }

    /// The child's next message; `Some(None)` if it ended without a final one; `None` once `stop` is set.
    fn next(&mut self, stop: &AtomicBool) -> Option<Option<Message>> {
        loop {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            match self.lines.recv_timeout(LOOK) {
                Ok(Line::Out(line)) => match terminal::decode(line.as_bytes()) {
                    Ok(message) => return Some(Some(message)),
                    Err(_) => self.complaints.push(line),
                },
                Ok(Line::Err(line)) => self.complaints.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Some(None),
            }
        }
    }

    fn go_on(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            // If it has ended, the next message says so.
            let _ = stdin.write_all(b"go on\n");
        }
    }

    fn last_line(&self) -> String {
        let telling = self.complaints.iter().rev().find(|line| !line.trim().is_empty());
        telling.map_or_else(
            || "it ended without a message".to_owned(),
            |line| terminal::shown(line.trim()).into_owned(),
        )
    }
}

impl Drop for Transfer {
    /// Closing its stdin ends the child, which has been reaped when this returns.
    fn drop(&mut self) {
        self.stdin = None;
        let until = Instant::now() + LAST_WORDS;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stream: Option<impl Read + Send + 'static>, sender: mpsc::Sender<Line>, kind: fn(String) -> Line) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender.send(kind(String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_keeps_some_room_for_everything_else() {
        assert!(fits(Bytes::gb(18), Bytes::gb(19)));
        assert!(!fits(Bytes::gb(18), Bytes::gb(18)));
        assert!(fits(Bytes::ZERO, Bytes::ZERO), "what is there needs no room");
    }

    #[test]
    fn a_python_that_fails_is_told_by_its_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python");
        crate::program::write(
            &python,
            "#!/bin/sh\necho Traceback >&2\necho 'No module named huggingface_hub' >&2\nexit 1\n",
        );
        let request =
            PullRequest { python, repo: "org/name".to_owned(), patience_seconds: 0.0, verify: false };
        let error = pull(&request, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
        let PullError::Failed { why, .. } = &error else { panic!("{error:?}") };
        assert_eq!(why, "No module named huggingface_hub");
    }
}
