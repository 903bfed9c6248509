//! Counts the events of a stream as they pass, without parsing them: JSON has no raw line breaks, so the first byte of
//! a line tells an event (`data: …`) from a comment (`: keepalive …`).

use std::sync::LazyLock;

use memchr::memmem::FinderRev;

const DONE: &[u8; 14] = b"data: [DONE]\n\n";
/// The comment that the launcher writes before [`DONE`]: tokens of the prompt, how many of those were cached, and
/// tokens of the answer.
const USAGE: &[u8] = b": usage ";
/// Bytes that hold both, with numbers of seven digits; no context is longer.
const TAIL: usize = 48;
/// `usage` is within this many bytes of the end of a complete answer.
const END: usize = 1024;

/// Tokens of a request and its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub prompt: u64,
    /// Tokens of the prompt that were not computed.
    pub cached: u64,
    pub answer: u64,
}

impl Usage {
    /// `usage` of a complete answer. It is at the end, and text that imitates it does not match: its quotes are
    /// escaped.
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        const KEYS: [&str; 3] = ["\"completion_tokens\":", "\"prompt_tokens\":", "\"cached_tokens\":"];
        // Building a finder costs more than a search.
        static FINDERS: LazyLock<[FinderRev<'static>; 3]> = LazyLock::new(|| KEYS.map(FinderRev::new));
        let end = body.get(body.len().saturating_sub(END)..)?;
        let [answer, prompt, cached] = &*FINDERS;
        Some(Self {
            answer: number(end, answer)?,
            prompt: number(end, prompt).unwrap_or(0),
            cached: number(end, cached).unwrap_or(0),
        })
    }
}

/// Counts of what has passed so far.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    in_line: bool,
    data: u64,
    begun: bool,
    tail: [u8; TAIL],
}

impl Default for Events {
    fn default() -> Self {
        Self { in_line: false, data: 0, begun: false, tail: [0; TAIL] }
    }
}

impl Events {
    /// Counts the next bytes of the stream.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
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

    /// Whether anything but comments has passed; from then on the request cannot be sent again.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Whether the last event was `[DONE]`, which ends a stream.
    pub(crate) fn done(&self) -> bool {
        self.tail.ends_with(DONE)
    }

    /// The launcher's counts; `None` if it wrote none, or the stream has not ended.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let before = self.tail.strip_suffix(DONE)?.strip_suffix(b"\n\n")?;
        let line = before.rsplit(|byte| *byte == b'\n').next()?.strip_prefix(USAGE)?;
        let mut numbers = std::str::from_utf8(line).ok()?.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Usage { prompt: next()?, cached: next()?, answer: next()? })
    }

    /// Whether the last byte ended a line, so that an event may follow.
    pub(crate) fn at_line_start(&self) -> bool {
        !self.in_line
    }

    /// Tokens so far: one per event, except for the event with the finish reason and `[DONE]`.
    pub(crate) fn tokens(&self) -> u64 {
        match self.usage() {
            Some(usage) => usage.answer,
            None if self.done() => self.data.saturating_sub(2),
            None => self.data,
        }
    }
}

fn number(text: &[u8], key: &FinderRev<'_>) -> Option<u64> {
    let rest = text.get(key.rfind(text)? + key.needle().len()..)?.trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": keepalive 1/2\n\n: keepalive 2/2\n\ndata: {\"a\":\"d\\n\"}\n\ndata: {}\n\ndata: {}\n\ndata: [DONE]\n\n";

    #[test]
    fn events_are_counted_wherever_reads_split_the_stream() {
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
    fn comments_alone_do_not_begin_an_answer() {
        let mut events = Events::default();
        events.pass(b": keepalive 1/2\n\n: data: x");
        assert!(!events.begun() && !events.done() && !events.at_line_start());
        events.pass(b"\n\nd");
        assert!(events.begun());
    }

    #[test]
    fn the_launchers_counts_are_found_wherever_reads_split_the_stream() {
        let stream = b"data: {}\n\n: usage 9999999 9999998 1234567\n\ndata: [DONE]\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            stream.chunks(size).for_each(|part| events.pass(part));
            let counted = Usage { prompt: 9_999_999, cached: 9_999_998, answer: 1_234_567 };
            assert_eq!((events.usage(), events.tokens()), (Some(counted), counted.answer), "{size}");
        }
        let mut said = Events::default();
        said.pass(b"data: {\"text\": \": usage 1 2 3\"}\n\ndata: [DONE]\n\n");
        assert_eq!(said.usage(), None, "a model can generate such text");
    }

    #[test]
    fn usage_is_found_in_a_complete_answer() {
        let body = br#"{"choices": [{"message": {"content": "\"completion_tokens\": 9"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}}"#;
        assert_eq!(Usage::of(body), Some(Usage { prompt: 3, cached: 0, answer: 12 }));
        assert_eq!(Usage::of(b"{}"), None);
        let cached = br#"{"usage": {"prompt_tokens": 30, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 29}}}"#;
        assert_eq!(Usage::of(cached), Some(Usage { prompt: 30, cached: 29, answer: 1 }));
    }
}
