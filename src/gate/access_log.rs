//! A line a request, to a file of its own that rotates by size.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

/// A file is put aside when it is larger; so many are kept.
const FILE_BYTES: u64 = 16 << 20;
const KEPT: u32 = 4;
/// Lines are written together: one write a request would cost as much as the request.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
const FLUSH_BYTES: usize = 32 * 1024;

/// What a line says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line<'a> {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Its key's name.
    pub key: Option<&'a str>,
    /// The request's id.
    pub id: &'a str,
    /// GET, POST, …
    pub method: &'a str,
    /// As it was asked for.
    pub path: &'a str,
    /// HTTP status; 0: there was no answer.
    pub status: u16,
    /// Bytes of the body that came.
    pub received: u64,
    /// Bytes of the body that went.
    pub sent: u64,
    /// Tokens of the answer.
    pub tokens: u64,
    /// Waiting for its turn and for the model.
    pub waited: Duration,
    /// To the first token.
    pub first_token: Option<Duration>,
    /// From head to end.
    pub total: Duration,
    /// How often it was sent to a backend.
    pub attempts: u32,
    /// How it ended: `ok`, `client_gone`, `cut`, or the error's code.
    pub outcome: &'a str,
}

/// The file, and the lines that are on their way to it.
#[derive(Debug)]
pub struct AccessLog {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    lines: Vec<u8>,
    complained: bool,
}

impl AccessLog {
    /// Lines go to `path`; the file is made with the first one.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let state = State { path, file: None, size: 0, lines: Vec::new(), complained: false };
        Self { state: Mutex::new(state), more: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Later lines go to `path`.
    pub fn move_to(&self, path: &Path) {
        let mut state = self.state();
        if state.path != path {
            state.flush();
            (state.path, state.file) = (path.to_path_buf(), None);
        }
    }

    /// Takes a line; it is in the file a quarter of a second later.
    pub fn write(&self, line: &Line<'_>) {
        let mut state = self.state();
        let first = state.lines.is_empty();
        line.format(&mut state.lines);
        if state.lines.len() >= FLUSH_BYTES {
            state.flush();
        } else if first {
            self.more.notify_one();
        }
    }

    /// Puts all lines into the file.
    pub fn flush(&self) {
        self.state().flush();
    }

    /// Writes what was taken, for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.more.notified().await;
            tokio::time::sleep(FLUSH_AFTER).await;
            self.flush();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl State {
    fn flush(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() {
            return;
        }
        // A full disk must not stop requests; it is said once.
        match self.try_write(&lines) {
            Ok(()) => self.complained = false,
            Err(error) => {
                self.file = None;
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(path = %self.path.display(), %error, "cannot write the access log");
                }
            }
        }
    }

    fn try_write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        if self.file.is_some() && self.size + lines.len() as u64 > FILE_BYTES {
            self.file = None;
            rotate(&self.path)?;
        }
        if self.file.is_none() {
            let file = File::options().create(true).append(true).open(&self.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(lines)?;
            self.size += lines.len() as u64;
        }
        Ok(())
    }
}

/// `x.log` → `x.log.1` → … → gone.
fn rotate(path: &Path) -> std::io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..KEPT).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(1))
}

impl Line<'_> {
    fn format(&self, out: &mut Vec<u8>) {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        let mut text = String::with_capacity(256);
        let _ = write!(text, "{} ", humantime::format_rfc3339_millis(SystemTime::now()));
        match self.client {
            Some(client) => _ = write!(text, "{client}"),
            None => text.push('-'),
        }
        let _ = write!(
            text,
            " {} {} {} {} {} in={} out={} tokens={} wait={:.0}ms",
            self.key.unwrap_or("-"),
            self.id,
            self.method,
            Plain(self.path),
            self.status,
            self.received,
            self.sent,
            self.tokens,
            millis(self.waited),
        );
        if let Some(first) = self.first_token {
            let _ = write!(text, " first={:.1}ms", millis(first));
        }
        let _ = writeln!(text, " total={:.1}ms sent={} {}", millis(self.total), self.attempts, self.outcome);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Text of a client without anything that could look like another field or line.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for char in self.0.chars().take(128) {
            f.write_char(if char.is_ascii_graphic() { char } else { '?' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_forge_a_line() {
        let mut out = Vec::new();
        Line { path: "/a b\r\n2026 forged", id: "r1", method: "GET", outcome: "ok", ..Line::default() }
            .format(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains(" /a?b??2026?forged 0 "), "{text}");
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("32b.access.log");
        let log = AccessLog::new(path.clone());
        for round in 0..7 {
            log.write(&Line { id: &format!("r{round}"), ..Line::default() });
            log.flush();
            log.state().size = FILE_BYTES;
        }
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "32b.access.log",
                "32b.access.log.1",
                "32b.access.log.2",
                "32b.access.log.3",
                "32b.access.log.4"
            ]
        );
        assert!(std::fs::read_to_string(path).unwrap().contains("r6"));
    }
}
