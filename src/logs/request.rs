//! The access log of a gate, read back.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::Tail;
use crate::terminal::shown;

/// One request, as the access log has it. Its JSON keys are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Request {
    /// When it ended, RFC 3339, UTC.
    pub at: String,
    pub model: String,
    pub client: String,
    pub key: Option<String>,
    pub id: String,
    pub method: String,
    pub path: String,
    pub status: u16,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub tokens: u64,
    pub wait_ms: f64,
    pub first_ms: Option<f64>,
    pub total_ms: f64,
    pub attempts: u32,
    pub outcome: String,
}

impl Request {
    /// Parses a line of the access log; `None`: it is something else, or incomplete.
    pub(crate) fn parse(model: &str, line: &str) -> Option<Self> {
        let line = shown(line.trim_end());
        let mut words = line.split(' ');
        let mut word = || words.next().map(str::to_owned);
        let (at, client, key, id) = (word()?, word()?, word()?, word()?);
        let (method, path, status) = (word()?, word()?, word()?.parse().ok()?);
        humantime::parse_rfc3339(&at).ok()?;
        let mut request = Self {
            at,
            model: model.to_owned(),
            client,
            key: Some(key).filter(|key| key != "-"),
            id,
            method,
            path,
            status,
            received_bytes: 0,
            sent_bytes: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            tokens: 0,
            wait_ms: 0.0,
            first_ms: None,
            total_ms: 0.0,
            attempts: 0,
            outcome: String::new(),
        };
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u64>().ok();
            let time = || value.strip_suffix("ms")?.parse::<f64>().ok();
            match name {
                "in" => request.received_bytes = number()?,
                "out" => request.sent_bytes = number()?,
                "prompt" => request.prompt_tokens = number()?,
                "cached" => request.cached_tokens = number()?,
                "tokens" => request.tokens = number()?,
                "wait" => request.wait_ms = time()?,
                "first" => request.first_ms = Some(time()?),
                "total" => request.total_ms = time()?,
                "sent" => request.attempts = value.parse().ok()?,
                _ => request.outcome = word.to_owned(),
            }
        }
        (!request.outcome.is_empty()).then_some(request)
    }
}

/// The access log of one model, and the beginning of a line that is not complete yet.
pub(crate) struct Requests {
    model: String,
    tail: Tail,
    pending: Vec<u8>,
}

impl Requests {
    /// Starts at the last `lines` lines; a log that does not exist yet has none.
    pub(crate) fn open_at_last(logs: &Path, model: &str, lines: usize) -> io::Result<Self> {
        let mut tail = Tail::new(logs.join(format!("{model}.access.log")));
        match tail.open_at_last(lines) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self { model: model.to_owned(), tail, pending: Vec::new() }),
        }
    }

    /// The requests that have ended since the last call, in that order.
    pub(crate) fn more(&mut self) -> io::Result<Vec<Request>> {
        let Self { model, tail, pending } = self;
        let mut requests = Vec::new();
        tail.catch_up()?;
        while let Some(block) = tail.block()? {
            pending.extend_from_slice(&block);
            while let Some(end) = memchr::memchr(b'\n', pending) {
                let line: Vec<u8> = pending.drain(..=end).collect();
                requests.extend(Request::parse(model, &String::from_utf8_lossy(&line)));
            }
        }
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-02-08T10:00:00.007Z 192.168.132.9 gateway req-1 POST /v1/chat/completions 200 in=10 \
                        out=2048 prompt=9 cached=8 tokens=7 wait=2ms first=12.3ms total=1000.0ms sent=1 ok\n";

    #[test]
    fn a_line_of_the_access_log_is_read_back() {
        let request = Request::parse("32b", LINE).unwrap();
        assert_eq!((request.key.as_deref(), request.status, request.tokens), (Some("gateway"), 200, 7));
        assert_eq!(
            (request.first_ms, request.total_ms, request.outcome.as_str()),
            (Some(12.3), 1000.0, "ok")
        );
        let refused =
            Request::parse("32b", &LINE.replace(" first=12.3ms", "").replace("gateway", "-")).unwrap();
        assert_eq!((refused.key, refused.first_ms), (None, None));
    }

    #[test]
    fn other_lines_are_skipped_and_escape_sequences_are_made_harmless() {
        for text in
            ["", "hello world", &LINE[..60], &LINE.replace("in=10", "in=ten"), &LINE.replace(" ok", "")]
        {
            assert_eq!(Request::parse("32b", text), None, "{text}");
        }
        let forged = Request::parse("32b", &LINE.replace("gateway", "\u{1b}[31mred")).unwrap();
        assert!(!forged.key.unwrap().contains('\u{1b}'));
    }

    #[test]
    fn half_a_line_waits_for_its_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.access.log");
        let (whole, half) = LINE.split_at(40);
        fs_err::write(&path, format!("{LINE}{whole}")).unwrap();
        let mut requests = Requests::open_at_last(folder.path(), "a", 9).unwrap();
        assert_eq!(requests.more().unwrap().len(), 1);
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        io::Write::write_all(&mut file, half.as_bytes()).unwrap();
        assert_eq!(requests.more().unwrap().len(), 1);
    }
}
