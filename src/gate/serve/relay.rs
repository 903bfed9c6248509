//! Passes a stream from the backend to the client: read, counted, framed and written in one step, without a buffer per
//! stream. Only what a slow client does not take at once is kept.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::lease::Lease;
use super::traffic::Traffic;
use crate::gate::wire::{
    AnswerHead, BEFORE, Client, Envelope, Events, LAST_CHUNK, Link, MIDDLE, PIECE, Silence, Usage,
    reply_head, size_line, with_scratch, write_all,
};

/// An answer in progress; it outlives the backend, so that another one can continue it.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Whether the body is chunked (HTTP/1.1); otherwise its length or the end of the connection ends it.
    chunks: bool,
    /// The head, until it is sent with the first bytes.
    head: Vec<u8>,
    /// Bytes still to come, if the backend announced a length.
    left: Option<u64>,
    is_events: bool,
    started: bool,
    events: Events,
    first_token: Option<Instant>,
    sent: u64,
}

#[derive(Debug)]
pub(crate) enum Relayed {
    /// Complete, and the connection can be reused.
    Done,
    /// Complete, which the client learns from the end of the connection.
    DoneAndClose,
    /// The backend went away before the end.
    Lost(String),
    /// Ended from outside, for this reason.
    Aborted(Arc<str>),
    ClientGone,
}

enum Step {
    /// What the client has not taken yet.
    Stuck(Vec<u8>),
    End(Relayed),
}

impl Relay {
    /// `chunks`: whether the client understands a chunked body.
    pub(crate) fn new(chunks: bool) -> Self {
        Self {
            chunks,
            head: Vec::new(),
            left: None,
            is_events: true,
            started: false,
            events: Events::default(),
            first_token: None,
            sent: 0,
        }
    }

    /// Builds the client's head from the backend's. It is sent with the first bytes of the body.
    pub(crate) fn prepare(&mut self, answer: &AnswerHead, envelope: &Envelope<'_>) {
        self.left = answer.length;
        self.is_events = answer.events;
        let framed = answer.length.is_some() || self.chunks;
        let mut head = reply_head(200, &Envelope { close: envelope.close || !framed, ..*envelope });
        head.push_str(if answer.events {
            "content-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
        } else {
            "content-type: application/json\r\n"
        });
        if let Some(length) = answer.length {
            self.chunks = false;
            let _ = write!(head, "content-length: {length}\r\n");
        } else if self.chunks {
            head.push_str("transfer-encoding: chunked\r\n");
        }
        head.push_str("\r\n");
        self.head = head.into_bytes();
    }

    /// Whether the head has been sent.
    pub(crate) fn started(&self) -> bool {
        self.started
    }

    /// Whether more than comments have been sent.
    pub(crate) fn begun(&self) -> bool {
        self.started && (!self.is_events || self.events.begun())
    }

    /// When the first event arrived, comments not counted.
    pub(crate) fn first_token(&self) -> Option<Instant> {
        self.first_token
    }

    /// Bytes of the body, without chunk framing.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The launcher's counts; without them, the tokens of the answer as counted by its events.
    pub(crate) fn usage(&self) -> Usage {
        self.events.usage().unwrap_or(Usage { answer: self.events.tokens(), ..Usage::default() })
    }

    /// Bytes that end a stream with `event`; none for a body with a known length, which can only be cut.
    pub(crate) fn last_words(&self, event: &[u8]) -> Vec<u8> {
        if !self.is_events || self.left.is_some() {
            return Vec::new();
        }
        let gap: &[u8] = if self.events.at_line_start() { b"" } else { b"\n\n" };
        let text = [gap, event].concat();
        if !self.chunks {
            return text;
        }
        let mut out = format!("{:x}\r\n", text.len()).into_bytes();
        out.extend_from_slice(&text);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(LAST_CHUNK);
        out
    }

    /// Passes on `first` and then everything that arrives. `request` is freed once the answer has begun: it will not be
    /// sent again.
    pub(crate) async fn run(
        &mut self,
        backend: &Link,
        first: &mut Vec<u8>,
        request: &mut Vec<u8>,
        lease: &Lease,
        client: &Client,
        traffic: &Traffic,
    ) -> Relayed {
        loop {
            let step = if first.is_empty() {
                poll_fn(|cx| self.poll(backend, request, lease, client, traffic, cx)).await
            } else {
                self.given(&std::mem::take(first), client)
            };
            match step {
                Some(Step::End(end)) => return end,
                Some(Step::Stuck(rest)) => {
                    if !Box::pin(unstick(&rest, lease, client)).await {
                        return Relayed::ClientGone;
                    }
                    if self.complete() {
                        return self.done();
                    }
                }
                None => {}
            }
        }
    }

    /// Passes on bytes that arrived together with the backend's head.
    fn given(&mut self, bytes: &[u8], client: &Client) -> Option<Step> {
        for part in bytes.chunks(MIDDLE) {
            let step = with_scratch(|scratch| {
                scratch.get_mut(BEFORE..BEFORE + part.len()).unwrap_or_default().copy_from_slice(part);
                self.forward(scratch, part.len(), client)
            });
            match step {
                // The rest of a large first read, which is rare, is kept in order.
                Some(Step::Stuck(mut rest)) => {
                    let after = part.as_ptr() as usize - bytes.as_ptr() as usize + part.len();
                    for part in bytes.get(after..).unwrap_or_default().chunks(MIDDLE) {
                        self.frame_into(part, &mut rest);
                    }
                    return Some(Step::Stuck(rest));
                }
                None => {}
                end => return end,
            }
        }
        None
    }

    fn poll(
        &mut self,
        backend: &Link,
        request: &mut Vec<u8>,
        lease: &Lease,
        client: &Client,
        traffic: &Traffic,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Step>> {
        loop {
            let step = with_scratch(|scratch| {
                let place = scratch.get_mut(BEFORE..BEFORE + PIECE).unwrap_or_default();
                match backend.poll_read(cx, place) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ok(0)) => {
                        Poll::Ready(Some(Step::End(Relayed::Lost("it closed the connection".to_owned()))))
                    }
                    Poll::Ready(Ok(count)) => Poll::Ready(self.forward(scratch, count, client)),
                    Poll::Ready(Err(error)) => {
                        Poll::Ready(Some(Step::End(Relayed::Lost(format!("the connection broke: {error}")))))
                    }
                }
            });
            match step {
                Poll::Ready(Some(step)) => return Poll::Ready(Some(step)),
                Poll::Ready(None) => {
                    traffic.heard(Instant::now());
                    if request.capacity() > 0 && self.begun() {
                        *request = Vec::new();
                    }
                }
                Poll::Pending => break,
            }
        }
        if let Some(why) = lease.ended(cx.waker()) {
            return Poll::Ready(Some(Step::End(Relayed::Aborted(why))));
        }
        client.poll_silence(cx).map(|silence| match silence {
            Silence::Left => Some(Step::End(Relayed::ClientGone)),
            Silence::Ask => self.ask(client),
        })
    }

    /// Sends something without effect, to see whether a client that sends nothing more is still there.
    fn ask(&mut self, client: &Client) -> Option<Step> {
        if !self.started {
            return (!client.ask()).then_some(Step::End(Relayed::ClientGone));
        }
        if !self.is_events || self.left.is_some() || !self.events.at_line_start() {
            return None;
        }
        let comment: &[u8] = if self.chunks { b"2\r\n:\n\r\n" } else { b":\n" };
        match client.try_write(comment) {
            Ok(written) if written == comment.len() => None,
            Ok(written) => Some(Step::Stuck(comment.get(written..).unwrap_or_default().to_vec())),
            // The bytes that it has not taken yet will show that.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(_) => Some(Step::End(Relayed::ClientGone)),
        }
    }

    /// Frames `count` bytes in place in the scratch buffer, and writes them.
    fn forward(&mut self, scratch: &mut [u8], count: usize, client: &Client) -> Option<Step> {
        let body = scratch.get(BEFORE..BEFORE + count).unwrap_or_default();
        self.account(body);
        let (mut from, mut to) = (BEFORE, BEFORE + count);
        let put = |scratch: &mut [u8], at: usize, bytes: &[u8]| {
            if let Some(place) = scratch.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        if self.chunks {
            let (line, used) = size_line(count);
            let size = line.get(line.len() - used..).unwrap_or_default();
            from -= size.len();
            put(scratch, from, size);
            put(scratch, to, b"\r\n");
            to += 2;
            if self.complete() {
                put(scratch, to, LAST_CHUNK);
                to += LAST_CHUNK.len();
            }
        }
        let head = std::mem::take(&mut self.head);
        let head = if head.is_empty() { &head } else { client.rest(&head) };
        let long_head = head.len() > from;
        if !long_head {
            from -= head.len();
            put(scratch, from, head);
        }
        self.started = true;
        let out = scratch.get(from..to).unwrap_or_default();
        if long_head {
            return Some(Step::Stuck([head, out].concat()));
        }
        match client.try_write(out) {
            Ok(written) if written == out.len() => self.complete().then(|| Step::End(self.done())),
            Ok(written) => Some(Step::Stuck(out.get(written..).unwrap_or_default().to_vec())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(Step::Stuck(out.to_vec())),
            Err(_) => Some(Step::End(Relayed::ClientGone)),
        }
    }

    fn frame_into(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.account(part);
        if self.chunks {
            out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        }
        out.extend_from_slice(part);
        if self.chunks {
            out.extend_from_slice(b"\r\n");
            if self.complete() {
                out.extend_from_slice(LAST_CHUNK);
            }
        }
    }

    fn account(&mut self, body: &[u8]) {
        self.sent += body.len() as u64;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(body.len() as u64);
        }
        if self.is_events {
            self.events.pass(body);
            if self.first_token.is_none() && self.events.begun() {
                self.first_token = Some(Instant::now());
            }
        }
    }

    /// Whether the body is complete: `[DONE]`, or as many bytes as announced.
    fn complete(&self) -> bool {
        self.left == Some(0) || (self.left.is_none() && self.is_events && self.events.done())
    }

    fn done(&self) -> Relayed {
        if self.chunks || self.left.is_some() { Relayed::Done } else { Relayed::DoneAndClose }
    }
}

/// Waits until a slow client has taken `rest`; `false` if it does not, or the lease ends.
async fn unstick(rest: &[u8], lease: &Lease, client: &Client) -> bool {
    let ended = poll_fn(|cx| lease.ended(cx.waker()).map_or(Poll::Pending, Poll::Ready));
    tokio::select! {
        biased;
        written = write_all(client, rest) => written.is_ok(),
        // The client may be in the middle of a chunk, where an error event cannot be written.
        _ = ended => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_start_on_a_new_line_and_end_the_stream() {
        let mut relay = Relay::new(true);
        relay.events.pass(b"data: {\"half");
        assert_eq!(relay.last_words(b"data: x\n\n"), b"b\r\n\n\ndata: x\n\n\r\n0\r\n\r\n");
        let relay = Relay::new(false);
        assert_eq!(relay.last_words(b"data: x\n\n"), b"data: x\n\n");
    }
}
