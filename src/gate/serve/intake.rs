//! Reads what a client sends: heads, bodies, and what is discarded. It yields regularly, so that a client that sends
//! fast does not keep others waiting.

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

/// Bodies of at least this many bytes are checked on a thread of their own: 16 MB take tens of milliseconds, in which
/// no other client would be served.
pub(super) const LARGE: usize = 256 * 1024;

pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Offset of the body, which extends to the end of `bytes`.
    pub(super) from: usize,
    pub(super) held: Held,
}

/// One client's connection, and the bytes from it that are not parsed yet.
pub(super) struct Intake {
    pub(super) stream: Client,
    pub(super) place: Place,
    pub(super) buffer: Vec<u8>,
    /// Bytes read since it last yielded.
    turn: u32,
    /// Bytes of an announced body that have not been taken, those in `buffer` included.
    pub(super) owed: u64,
    /// Whether a large body arrived whose memory has not been returned to the system yet.
    large: bool,
}

impl Intake {
    pub(super) fn new(stream: TcpStream, place: Place) -> Self {
        Self { stream: Client::new(stream), place, buffer: Vec::new(), turn: 0, owed: 0, large: false }
    }

    /// Waits for a head; `None` if the client is done, or idle for too long.
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

    /// Reads the body; `None` if the client leaves before its end.
    pub(super) async fn body(
        &mut self,
        head: &Head,
        bounds: Bounds,
        mut held: Held,
    ) -> Result<Option<Body>, Refusal> {
        let limit = bounds.body;
        let length = match head.framing {
            Framing::None => return Err(Refusal::invalid(None, "a body is required".to_owned())),
            Framing::Length(length) if length > limit => return Err(body_too_large(limit)),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        // A body with a length stays in the buffer behind its head, so that no bytes are moved.
        let from = if length.is_some() { head.length } else { 0 };
        self.buffer.drain(..head.length - from);
        if head.expects && self.buffer.len() == from && length != Some(0) {
            let proceed = b"HTTP/1.1 100 Continue\r\n\r\n";
            if write_all(&self.stream, proceed).await.is_err() {
                return Ok(None);
            }
        }
        let begun = Instant::now();
        let mut chunks = Chunks::default();
        let (mut steady, mut next) = (begun, SLOWEST);
        loop {
            let arrived = (self.buffer.len() - from + chunks.body.len()) as u64;
            self.large |= arrived >= LARGE as u64;
            // A thousand clients must not fill the memory with incomplete bodies.
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
            // A fast start does not entitle a client to hold its memory for long.
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

    /// Reads once; `false` if the client has closed, or at `deadline`.
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

    /// Lets other connections have a turn.
    pub(super) async fn yields(&mut self) {
        self.turn = 0;
        tokio::task::yield_now().await;
    }

    /// Returns the memory of a large body to the system; the allocator would keep it.
    pub(super) fn give_back(&mut self) {
        /// Whether a task is scheduled: one is enough for all bodies freed before it begins.
        static ASKED: AtomicBool = AtomicBool::new(false);
        if std::mem::take(&mut self.large) && !ASKED.swap(true, Ordering::AcqRel) {
            tokio::task::spawn_blocking(|| {
                ASKED.store(false, Ordering::Release);
                host::relieve();
            });
        }
    }

    /// Lets the client finish sending and read its answer before the connection closes.
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
