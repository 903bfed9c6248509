//! What comes from a client: heads, bodies, and what nobody reads any more. Whatever it sends and however fast, others
//! get their turn in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::bodies::Held;
use super::crowd::Place;
use crate::gate::policy::bounds::Bounds;
use crate::gate::wire::{
    Chunks, Client, Framing, HEAD_BYTES, Head, LINGER, MIDDLE, Refusal, SLOWEST, body_too_large, by,
    empty_lines, head_too_large, part, poll_append, write_all,
};
use crate::host;

/// Bodies from this size on, bytes, are checked by a thread of their own: that of 16 MB takes tens of milliseconds, in
/// which nobody else would be served.
pub(super) const LARGE: usize = 256 * 1024;

/// The body of a request.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Where in `bytes` it begins; it reaches to their end.
    pub(super) from: usize,
    pub(super) held: Held,
}

/// What comes from one client, and the bytes of it that are not understood yet.
pub(super) struct Intake {
    pub(super) stream: Client,
    pub(super) place: Place,
    pub(super) buffer: Vec<u8>,
    /// Bytes that were read since others had their turn.
    turn: u32,
    /// Bytes of a body that was announced and is not read, those in `buffer` included.
    pub(super) owed: u64,
    /// Whether a large body came whose memory was not given back to the system yet.
    large: bool,
}

impl Intake {
    pub(super) fn new(stream: TcpStream, place: Place) -> Self {
        Self { stream: Client::new(stream), place, buffer: Vec::new(), turn: 0, owed: 0, large: false }
    }

    /// Waits for a head. `None`: the client is done, or too slow to begin.
    pub(super) async fn head(&mut self, read_timeout: Duration) -> Result<Option<Head>, Refusal> {
        let idle = Instant::now() + self.place.idle();
        let (mut deadline, mut skipped) = (None, 0);
        loop {
            let empty = empty_lines(&self.buffer);
            self.buffer.drain(..empty);
            skipped += empty;
            if self.buffer.is_empty() {
                // An idle connection holds no buffer.
                self.buffer = Vec::new();
                if skipped > HEAD_BYTES {
                    return Err(head_too_large());
                }
            } else {
                if let Some(head) = Head::parse(&self.buffer)? {
                    return Ok(Some(head));
                }
                deadline.get_or_insert_with(|| Instant::now() + read_timeout);
            }
            if !self.more(deadline.unwrap_or(idle)).await {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Err(slow());
                }
                return Ok(None);
            }
        }
    }

    /// Reads the body. `None`: the client went away in the middle.
    pub(super) async fn body(
        &mut self,
        head: &Head,
        bounds: Bounds,
        mut held: Held,
    ) -> Result<Option<Body>, Refusal> {
        let limit = bounds.body;
        let length = match head.framing {
            Framing::None => return Err(Refusal::invalid(None, "a body is needed".to_owned())),
            Framing::Length(length) if length > limit => return Err(body_too_large(limit)),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        // What has a length is taken out together with the head before it, so that nothing is moved.
        let from = if length.is_some() { head.length } else { 0 };
        self.buffer.drain(..head.length - from);
        if head.expects && self.buffer.len() == from && length != Some(0) {
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            if write_all(&self.stream, go_on).await.is_err() {
                return Ok(None);
            }
        }
        let begun = Instant::now();
        let mut chunks = Chunks::default();
        let (mut steady, mut next) = (begun, SLOWEST);
        loop {
            let arrived = (self.buffer.len() - from + chunks.body.len()) as u64;
            self.large |= arrived >= LARGE as u64;
            // A thousand clients must not fill memory with halves of bodies.
            if !held.grow(arrived, limit) {
                return Err(crowded());
            }
            match length.and_then(|length| usize::try_from(length).ok()) {
                Some(length) if self.buffer.len() - from >= length => {
                    let rest = self.buffer.split_off(from + length);
                    let bytes = std::mem::replace(&mut self.buffer, rest);
                    return Ok(Some(self.received(bytes, from, held)));
                }
                Some(_) => {}
                None => {
                    if chunks.take(&mut self.buffer, limit)? {
                        return Ok(Some(self.received(chunks.body, from, held)));
                    }
                }
            }
            if arrived >= next {
                (steady, next) = (Instant::now(), arrived + SLOWEST);
            }
            // What came fast at first is no reason to hold its memory for long.
            let deadline = (begun + Duration::from_secs(arrived / SLOWEST)).min(steady) + bounds.read_timeout;
            if !self.more(deadline).await {
                if Instant::now() < deadline {
                    return Ok(None);
                }
                self.owed = 0;
                return Err(slow());
            }
        }
    }

    fn received(&mut self, bytes: Vec<u8>, from: usize, held: Held) -> Body {
        self.owed = 0;
        self.place.works();
        Body { bytes, from, held }
    }

    /// Reads once; `false`: the client has closed, or `deadline` came.
    async fn more(&mut self, deadline: Instant) -> bool {
        self.place.waits();
        let before = self.buffer.len();
        let Self { stream, buffer, .. } = self;
        if !matches!(by(deadline, |cx| poll_append(stream, cx, buffer)).await, Some(Ok(1..))) {
            return false;
        }
        let came = u32::try_from(self.buffer.len().saturating_sub(before)).unwrap_or(u32::MAX);
        self.turn = self.turn.saturating_add(came);
        if self.turn as usize >= MIDDLE {
            self.yields().await;
        }
        true
    }

    /// Lets everybody else have a turn.
    pub(super) async fn yields(&mut self) {
        self.turn = 0;
        tokio::task::yield_now().await;
    }

    /// Gives the memory of a large body back to the system: the allocator would keep it.
    pub(super) fn give_back(&mut self) {
        /// One such task is enough for all bodies that were freed before it begins.
        static ASKED: AtomicBool = AtomicBool::new(false);
        if std::mem::take(&mut self.large) && !ASKED.swap(true, Ordering::AcqRel) {
            tokio::task::spawn_blocking(|| {
                ASKED.store(false, Ordering::Release);
                host::relieve();
            });
        }
    }

    /// Lets the client send what it was going to send and read what it was told, before the connection is gone.
    pub(super) async fn part(&mut self) {
        self.place.waits();
        let owed = self.owed.saturating_sub(self.buffer.len() as u64);
        self.buffer = Vec::new();
        self.give_back();
        part(&mut self.stream, owed, LINGER).await;
    }
}

fn slow() -> Refusal {
    Refusal::new(408, "request_timeout", "the request arrived too slowly")
}

fn crowded() -> Refusal {
    let message = "too many large requests at once";
    Refusal::unavailable("overloaded", message, Duration::from_secs(5))
}
