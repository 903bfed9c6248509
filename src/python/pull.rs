//! Brings a model's files from the hub: the environment's own `huggingface_hub` does the transfer, in a child that
//! asks before the first byte and before the weights. What is refused is decided here.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::profile;
use super::script::Script;
use super::whole::{self, Flaw, Whole};
use super::{hub, process};
use crate::terminal;
use crate::units::Bytes;

/// Does the transfer; its request is a [`PullRequest`].
pub(super) const SCRIPT: Script = Script {
    main: include_str!("pull.py"),
    modules: &[("pull_hub", include_str!("pull_hub.py")), ("pull_files", include_str!("pull_files.py"))],
};

/// What stays free on the disk: a full one stops more than a download.
const KEEP_FREE: Bytes = Bytes::gb(1);

/// Between two looks at whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// How long the child may take to end after its stdin was closed; it ends at once.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What is wanted.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PullRequest {
    /// The environment's interpreter.
    #[serde(skip)]
    pub python: PathBuf,
    /// `org/name`.
    pub repo: String,
    /// How long nothing may come before it is given up, seconds, ≥ 0.
    pub patience_seconds: f64,
    /// Read what is in the cache already, and fetch anew what is not what the hub lists.
    pub verify: bool,
}

/// What the hub says of a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Plan {
    pub cache: PathBuf,
    pub endpoint: String,
    pub commit: String,
    pub license: Option<String>,
    /// The files that are needed.
    pub files: Vec<String>,
    pub bytes: Bytes,
    /// What of them is in the cache already.
    pub there: Bytes,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// It begins.
    Planned(Plan),
    /// So much is there.
    Progress(Bytes),
    /// The hub is away; it is tried again.
    Waiting(String),
    /// A file in the cache was not what the hub lists, and is fetched anew.
    Damaged(String),
}

/// Why the files are not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PullError {
    /// It was told to stop; what has come stays.
    #[error("the download was interrupted")]
    Interrupted,
    /// There is not enough disk space; nothing was downloaded.
    #[error("there is too little disk space for {repo}")]
    NoRoom { repo: String, needed: Bytes, free: Bytes, cache: PathBuf },
    /// The model is not for mlx-lm, is damaged, or brings code.
    #[error("{repo} cannot be served")]
    Flawed { repo: String, flaw: Flaw },
    /// What the child says.
    #[error("{repo} could not be downloaded")]
    Failed {
        repo: String,
        kind: Kind,
        why: String,
        /// Whether a token was sent along.
        token: bool,
    },
}

/// What a failure comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// `HF_HUB_OFFLINE` is set.
    Offline,
    /// Its licence has to be accepted first.
    Gated,
    /// There is none of that name, or it is private.
    NotFound,
    /// The token is not good for it.
    Unauthorized,
    /// The hub answers with an error.
    Hub,
    /// The hub does not answer.
    Network,
    /// Something else answers in its place.
    Portal,
    /// The disk filled up on the way.
    DiskFull,
    /// Another download is at work.
    Busy,
    /// What came is not what the hub lists.
    Damaged,
    /// A file could not be read or written.
    Io,
    /// Something else.
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

/// Brings the model's files and checks that they are whole. `stop` ends it, and the next pull resumes from there.
///
/// # Errors
/// [`PullError`]; the part downloaded so far stays in the cache, unless it is not what the hub lists.
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

/// Whether the disk takes what is still to come.
fn room(request: &PullRequest, plan: &Plan) -> Result<(), PullError> {
    let needed = plan.bytes.saturating_sub(plan.there);
    let free = plan.cache.ancestors().find_map(free_space);
    match free {
        Some(free) if !fits(needed, free) => {
            Err(PullError::NoRoom { repo: request.repo.clone(), needed, free, cache: plan.cache.clone() })
        }
        _ => Ok(()),
    }
}

/// What is there already always fits.
fn fits(needed: Bytes, free: Bytes) -> bool {
    needed == Bytes::ZERO || needed + KEEP_FREE <= free
}

/// What an ordinary user may still write below `folder`, see statvfs(3); `None`: there is no such folder.
pub(crate) fn free_space(folder: &Path) -> Option<Bytes> {
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    #[allow(clippy::unnecessary_cast, reason = "the first is narrower on macOS")]
    Some(Bytes((found.blocks_available() as u64).saturating_mul(found.fragment_size() as u64)))
}

/// The child.
struct Transfer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    complaints: Vec<String>,
}

/// Of which stream.
enum Line {
    Out(String),
    Err(String),
}

impl Transfer {
    fn start(request: &PullRequest) -> io::Result<Self> {
        let mut command = process::command(&request.python);
        command.args(SCRIPT.arguments(&serde_json::to_string(request)?));
        // Where backends will look for the files.
        command.envs(hub::cache_folder().map(|folder| ("HF_HUB_CACHE", folder)));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, lines) = mpsc::channel();
        read(child.stdout.take(), sender.clone(), Line::Out);
        read(child.stderr.take(), sender, Line::Err);
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, complaints: Vec::new() })
    }

    /// The next word of the child; `Some(None)`: it has ended without a last one; `None`: it is to stop.
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
            // If it is gone, its end is the next thing that is heard of it.
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
    /// The end of its stdin ends the child; nothing of it is left when this returns.
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
