//! What comes from a client: heads, bodies, and what nobody reads any more. Whatever it sends and however fast, others
//! get their turn in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connection::{Connection, LARGE};
use super::door::Door;
use super::shared::Held;
use crate::gate::wire::chunks::{Chunks, too_large};
use crate::gate::wire::head::{self, Framing, Head};
use crate::gate::wire::refusal::Refusal;
use crate::gate::wire::stream::{MIDDLE, by, poll_append, poll_discard, write_all};
use crate::host;

/// Bodies may come this slowly, bytes a second, once the read time-out is over.
const SLOWEST: u64 = 64 * 1024;
/// A client that is still sending sees its answer, and not a reset, if it is done within this time beside
/// [`SLOWEST`], and this many bytes. Some read nothing before they have sent everything.
pub(super) const LINGER: Duration = Duration::from_secs(10);
const LINGER_BYTES: u64 = 64 << 20;
/// It counts as done when it has sent nothing for this long.
const QUIET: Duration = Duration::from_secs(1);

/// The body of a request.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Where in `bytes` it begins; it reaches to their end.
    pub(super) from: usize,
    pub(super) held: Held,
}

impl Connection {
    /// Waits for a head. `None`: the client is done, or too slow to begin.
    pub(super) async fn head(&mut self, door: &dyn Door) -> Result<Option<Head>, Refusal> {
        let idle = Instant::now() + self.place.idle();
        let (mut deadline, mut skipped) = (None, 0);
        loop {
            let empty = head::empty_lines(&self.buffer);
            self.buffer.drain(..empty);
            skipped += empty;
            if self.buffer.is_empty() {
                // An idle connection holds no buffer.
                self.buffer = Vec::new();
                if skipped > head::HEAD_BYTES {
                    return Err(head::too_large());
                }
            } else {
                if let Some(head) = head::parse(&self.buffer)? {
                    return Ok(Some(head));
                }
                deadline.get_or_insert_with(|| Instant::now() + door.bounds().read_timeout);
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
    pub(super) async fn body(&mut self, head: &Head, door: &dyn Door) -> Result<Option<Body>, Refusal> {
        let bounds = door.bounds();
        let limit = bounds.body;
        let length = match head.framing {
            Framing::None => return Err(Refusal::invalid(None, "a body is needed".to_owned())),
            Framing::Length(length) if length > limit => return Err(too_large(limit)),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let mut held = door.bodies().of(self.client);
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
        self.turn += self.buffer.len().saturating_sub(before);
        if self.turn >= MIDDLE {
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

/// Ends a connection whose client was told something, and has still `owed` bytes of a body to send.
pub(super) async fn part(stream: &mut TcpStream, owed: u64, patience: Duration) {
    discard(stream, owed.min(LINGER_BYTES), patience).await;
    let _ = stream.shutdown().await;
    discard(stream, LINGER_BYTES, patience).await;
}

/// Reads up to `most` bytes for nothing.
async fn discard(stream: &mut TcpStream, most: u64, patience: Duration) {
    let begun = Instant::now();
    let mut came = 0;
    while came < most {
        let deadline = begun + patience + Duration::from_secs(came / SLOWEST);
        let Some(Ok(count @ 1..)) =
            by(deadline.min(Instant::now() + QUIET), |cx| poll_discard(stream, cx)).await
        else {
            return;
        };
        came += count as u64;
        tokio::task::yield_now().await;
    }
}

fn slow() -> Refusal {
    Refusal::new(408, "request_timeout", "the request came too slowly")
}

fn crowded() -> Refusal {
    let message = "too many large requests at once";
    Refusal::unavailable("overloaded", message, Duration::from_secs(5))
}
