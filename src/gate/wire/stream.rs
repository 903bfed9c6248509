//! Reads and writes without a buffer per connection: bytes are read into one scratch buffer per thread, and copied only
//! if they must be kept. A thousand idle streams hold no buffers at all.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Bytes reserved before what is read, for a head and a chunk's size line.
pub(crate) const BEFORE: usize = 1024;
/// Maximum number of bytes per read.
pub(crate) const MIDDLE: usize = 64 * 1024;
/// The same for streams: small pieces let client and gate work in parallel and keep copies in the L1 cache
/// (`scripts/bench-gate`, chunks per second).
pub(crate) const PIECE: usize = 4 * 1024;
/// Bytes reserved after what is read, for the end of a chunk and of the stream.
pub(super) const BEHIND: usize = 16;

/// A client that reads nothing for this long is dropped: it would keep its place at the backend forever.
pub(super) const STALL: Duration = Duration::from_secs(60);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BEFORE + MIDDLE + BEHIND]);
}

/// Passes the scratch buffer to `with`, which cannot hold it across an await.
pub(crate) fn with_scratch<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| with(scratch))
}

/// Reads once and appends; 0 means the end of the stream.
pub(crate) fn poll_append(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    out: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    with_scratch(|scratch| {
        let place = scratch.get_mut(..MIDDLE).unwrap_or_default();
        let mut buffer = ReadBuf::new(place);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        out.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

/// Reads once and discards; 0 means the end of the stream.
pub(super) fn poll_discard(stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    with_scratch(|scratch| {
        let mut buffer = ReadBuf::new(scratch.get_mut(..MIDDLE).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

/// Polls until `deadline`, then returns `None`. The timer is set only if the first poll is pending, which is rare.
pub(crate) async fn by<T>(deadline: Instant, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let mut timer = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(value) = poll(cx) {
            return Poll::Ready(Some(value));
        }
        if timer.is_none() {
            timer.set(Some(sleep_until(deadline)));
        }
        timer.as_mut().as_pin_mut().map_or(Poll::Pending, |timer| timer.poll(cx)).map(|()| None)
    })
    .await
}

/// Writes all bytes, or gives up on a client that reads nothing for [`STALL`].
///
/// # Errors
/// Errors of the system, or `TimedOut`.
pub(crate) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let writable = by(Instant::now() + STALL, |cx| stream.poll_write_ready(cx)).await;
                writable.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
