//! Counting the events of a stream as they pass. Not parsing: a JSON text has no raw line ends, so the first byte
//! of a line tells an event (`data: …`) from a comment (`: keepalive …`).

use std::sync::LazyLock;

use memchr::memmem::FinderRev;

const DONE: &[u8; 14] = b"data: [DONE]\n\n";

/// What passed so far.
#[derive(Debug, Clone, Default)]
pub struct Events {
    in_line: bool,
    data: u64,
    begun: bool,
    tail: [u8; DONE.len()],
}

impl Events {
    /// Takes the next bytes.
    pub fn pass(&mut self, bytes: &[u8]) {
        let Some(&first) = bytes.first() else { return };
        if !self.in_line {
            self.line(first);
        }
        for end in memchr::memchr_iter(b'\n', bytes) {
            if let Some(&next) = bytes.get(end + 1) {
                self.line(next);
            }
        }
        self.in_line = bytes.last() != Some(&b'\n');
        match bytes.last_chunk() {
            Some(tail) => self.tail = *tail,
            None => {
                self.tail.rotate_left(bytes.len());
                let keep = self.tail.len().saturating_sub(bytes.len());
                for (place, byte) in self.tail.iter_mut().skip(keep).zip(bytes) {
                    *place = *byte;
                }
            }
        }
    }

    fn line(&mut self, first: u8) {
        self.data += u64::from(first == b'd');
        self.begun |= !matches!(first, b':' | b'\r' | b'\n');
    }

    /// Whether anything but comments passed: from here on the answer cannot be begun again.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// Whether the last event was the one that ends a stream.
    #[must_use]
    pub fn done(&self) -> bool {
        &self.tail == DONE
    }

    /// Whether the last byte ended a line, so that an event may follow.
    #[must_use]
    pub fn at_line_start(&self) -> bool {
        !self.in_line
    }

    /// Tokens that passed: an event a token, but for the one with the finish reason and `[DONE]`.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        if self.done() { self.data.saturating_sub(2) } else { self.data }
    }
}

/// `usage.completion_tokens` of a whole answer. It stands near the end, so it is searched from there.
#[must_use]
pub fn completion_tokens(body: &[u8]) -> Option<u64> {
    const KEY: &str = "\"completion_tokens\":";
    // To make it costs more than to search with it.
    static FINDER: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(KEY));
    let rest = body.get(FINDER.rfind(body)? + KEY.len()..)?.trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": keepalive 1/2\n\n: keepalive 2/2\n\ndata: {\"a\":\"d\\n\"}\n\ndata: {}\n\ndata: {}\n\ndata: [DONE]\n\n";

    #[test]
    fn events_are_counted_wherever_the_stream_is_cut() {
        for size in 1..STREAM.len() {
            let mut events = Events::default();
            for part in STREAM.chunks(size) {
                events.pass(part);
            }
            assert!(events.done() && events.begun() && events.at_line_start(), "{size}");
            assert_eq!(events.tokens(), 2, "{size}");
        }
    }

    #[test]
    fn comments_alone_begin_nothing() {
        let mut events = Events::default();
        events.pass(b": keepalive 1/2\n\n: data: x");
        assert!(!events.begun() && !events.done() && !events.at_line_start());
        events.pass(b"\n\nd");
        assert!(events.begun());
    }

    #[test]
    fn usage_is_found_in_a_whole_answer() {
        let body = br#"{"choices": [{"message": {"content": "\"completion_tokens\": 9"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}}"#;
        assert_eq!(completion_tokens(body), Some(12));
        assert_eq!(completion_tokens(b"{}"), None);
    }
}
