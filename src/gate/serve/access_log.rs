//! A line a request, to a file of its own that rotates by size.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::gate::wire::Usage;
use tokio::sync::Notify;

/// A file is put aside when it is larger; so many are kept.
const FILE_BYTES: u64 = 16 << 20;
const KEPT: u32 = 4;
/// Lines are written together: one write a request would cost as much as the request.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
const FLUSH_BYTES: usize = 32 * 1024;
/// Lines a second for requests that went to no backend: they cost their sender nothing, and would push out all others.
const UNSERVED: u32 = 20;

/// What a line says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Line<'a> {
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
    /// Tokens of the prompt, the cached ones among them, and of the answer.
    pub usage: Usage,
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
pub(crate) struct AccessLog {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    lines: Vec<u8>,
    stamp: Stamp,
    complained: bool,
    unserved: Unserved,
}

/// Requests that went to no backend, in one second.
#[derive(Debug, Default)]
struct Unserved {
    second: u64,
    listed: u32,
    unlisted: u64,
}

impl Unserved {
    /// Whether one more has a line.
    fn has_line(&mut self) -> bool {
        let listed = self.listed < UNSERVED;
        self.listed += u32::from(listed);
        self.unlisted += u64::from(!listed);
        listed
    }

    /// Those that had no line until now, once their second is over.
    fn over(&mut self, second: u64) -> u64 {
        if second == self.second {
            return 0;
        }
        std::mem::replace(self, Self { second, ..Self::default() }).unlisted
    }
}

/// The time of a line; what changes only with the second is kept for the next.
#[derive(Debug, Default)]
struct Stamp {
    second: u64,
    /// RFC 3339 up to the point.
    text: String,
}

impl Stamp {
    fn write(&mut self, now: SystemTime, out: &mut Vec<u8>) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text = humantime::format_rfc3339_seconds(now).to_string();
            self.text.truncate(self.text.len().saturating_sub(1));
        }
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'.');
        padded(out, since.subsec_millis());
        out.extend_from_slice(b"Z ");
    }
}

/// Three digits.
fn padded(out: &mut Vec<u8>, number: u32) {
    for place in [100, 10, 1] {
        let digit = u8::try_from(number / place % 10).unwrap_or_default();
        out.push(b'0' + digit);
    }
}

impl AccessLog {
    /// Lines go to `path`; the file is made with the first one.
    #[must_use]
    pub(crate) fn new(path: PathBuf) -> Self {
        let state = State {
            path,
            file: None,
            size: 0,
            lines: Vec::new(),
            stamp: Stamp::default(),
            complained: false,
            unserved: Unserved::default(),
        };
        Self { state: Mutex::new(state), more: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Later lines go to `path`.
    pub(crate) fn move_to(&self, path: &Path) {
        let mut state = self.state();
        if state.path != path {
            state.flush();
            (state.path, state.file) = (path.to_path_buf(), None);
        }
    }

    /// Takes a line; it is in the file a quarter of a second later.
    pub(crate) fn write(&self, line: &Line<'_>) {
        self.write_at(line, SystemTime::now());
    }

    fn write_at(&self, line: &Line<'_>, now: SystemTime) {
        let mut state = self.state();
        let first = state.lines.is_empty();
        state.sum_up(now);
        if line.attempts == 0 && !state.unserved.has_line() {
            // The end of this second is to be told even if nothing comes after it.
            self.more.notify_one();
            return;
        }
        state.take(line, now);
        if state.lines.len() >= FLUSH_BYTES {
            state.flush();
        } else if first {
            self.more.notify_one();
        }
    }

    /// Puts all lines into the file.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        state.sum_up(SystemTime::now());
        state.flush();
    }

    /// Writes what was taken, for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            self.more.notified().await;
            tokio::time::sleep(FLUSH_AFTER).await;
            self.flush();
            if self.state().unserved.unlisted > 0 {
                self.more.notify_one();
            }
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl State {
    fn take(&mut self, line: &Line<'_>, now: SystemTime) {
        self.stamp.write(now, &mut self.lines);
        line.format(&mut self.lines);
    }

    /// Tells in one line how many had none, once their second is over.
    fn sum_up(&mut self, now: SystemTime) {
        let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let count = self.unserved.over(second);
        if count > 0 {
            let outcome = format!("unlisted={count}");
            let line = Line { id: "-", method: "-", path: "-", outcome: &outcome, ..Line::default() };
            self.take(&line, now);
        }
    }

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
    /// Joined, not formatted: `write!` would be a sixth of what the gate does for a request.
    fn format(&self, out: &mut Vec<u8>) {
        match self.client {
            Some(IpAddr::V4(client)) => {
                for (place, octet) in client.octets().into_iter().enumerate() {
                    if place > 0 {
                        out.push(b'.');
                    }
                    number(out, octet.into());
                }
            }
            // Rare, and not worth code of its own.
            Some(client @ IpAddr::V6(_)) => out.extend_from_slice(client.to_string().as_bytes()),
            None => out.push(b'-'),
        }
        for word in [self.key.unwrap_or("-"), self.id, self.method] {
            out.push(b' ');
            out.extend_from_slice(word.as_bytes());
        }
        out.push(b' ');
        plain(out, self.path);
        out.push(b' ');
        number(out, self.status.into());
        for (name, value) in [
            (" in=", self.received),
            (" out=", self.sent),
            (" prompt=", self.usage.prompt),
            (" cached=", self.usage.cached),
            (" tokens=", self.usage.answer),
        ] {
            out.extend_from_slice(name.as_bytes());
            number(out, value);
        }
        out.extend_from_slice(b" wait=");
        number(out, u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX));
        out.extend_from_slice(b"ms");
        if let Some(first) = self.first_token {
            out.extend_from_slice(b" first=");
            tenths(out, first);
        }
        out.extend_from_slice(b" total=");
        tenths(out, self.total);
        out.extend_from_slice(b" sent=");
        number(out, self.attempts.into());
        out.push(b' ');
        out.extend_from_slice(self.outcome.as_bytes());
        out.push(b'\n');
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Milliseconds with one decimal.
fn tenths(out: &mut Vec<u8>, time: Duration) {
    let tenths = u64::try_from(time.as_micros() / 100).unwrap_or(u64::MAX);
    number(out, tenths / 10);
    out.push(b'.');
    number(out, tenths % 10);
    out.extend_from_slice(b"ms");
}

/// Text of a client without anything that could look like another field or line.
fn plain(out: &mut Vec<u8>, text: &str) {
    out.extend(text.chars().take(128).map(|char| match u8::try_from(char) {
        Ok(byte) if byte.is_ascii_graphic() => byte,
        _ => b'?',
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fields_in_order_and_the_time_with_its_milliseconds() {
        let mut out = Vec::new();
        let mut stamp = Stamp::default();
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        stamp.write(at(1_700_000_000_007), &mut out);
        stamp.write(at(1_700_000_000_999), &mut out);
        stamp.write(at(1_700_000_001_000), &mut out);
        Line {
            client: Some(IpAddr::from([192, 168, 132, 9])),
            key: Some("gateway"),
            id: "req-1",
            method: "POST",
            path: "/v1/chat/completions",
            status: 200,
            received: 10,
            sent: 2048,
            usage: Usage { prompt: 9, cached: 8, answer: 7 },
            waited: Duration::from_micros(2_900),
            first_token: Some(Duration::from_micros(12_345)),
            total: Duration::from_micros(1_000_040),
            attempts: 1,
            outcome: "ok",
        }
        .format(&mut out);
        Line { client: Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])), ..Line::default() }.format(&mut out);
        let text = "2023-11-14T22:13:20.007Z 2023-11-14T22:13:20.999Z 2023-11-14T22:13:21.000Z \
            192.168.132.9 gateway req-1 POST /v1/chat/completions 200 in=10 out=2048 prompt=9 cached=8 tokens=7 wait=2ms \
            first=12.3ms total=1000.0ms sent=1 ok\n\
            ::1 -    0 in=0 out=0 prompt=0 cached=0 tokens=0 wait=0ms total=0.0ms sent=0 \n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

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
    fn a_flood_of_requests_that_no_backend_saw_has_a_few_lines_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = AccessLog::new(path.clone());
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let refused = Line { status: 401, id: "refused", ..Line::default() };
        let served = Line { status: 200, id: "served", attempts: 1, ..Line::default() };
        for _ in 0..1000 {
            log.write_at(&refused, at(5000));
        }
        for _ in 0..100 {
            log.write_at(&served, at(5500));
        }
        log.write_at(&refused, at(6000));
        log.write_at(&refused, at(7000));
        log.flush();
        let text = std::fs::read_to_string(path).unwrap();
        let count = |word: &str| text.lines().filter(|line| line.contains(word)).count();
        assert_eq!(count(" refused "), UNSERVED as usize + 2);
        assert_eq!(count(" served "), 100);
        let said: Vec<_> = text.lines().filter(|line| line.contains("unlisted=")).collect();
        assert_eq!(said.len(), 1, "{text}");
        assert!(said[0].ends_with(" unlisted=980") && said[0].contains(":06.000Z - - - - - 0 "), "{said:?}");
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
