//! Reading and writing without a buffer a connection: bytes are read into one scratch buffer of the thread, and
//! kept only where they must be. A thousand idle streams hold no buffers at all.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Room before what is read, for a head and a chunk's size line.
pub(crate) const BEFORE: usize = 1024;
/// Read at once, at most.
pub(crate) const MIDDLE: usize = 64 * 1024;
/// Of a stream: where more than this is there at once, client and gate work side by side, and what is copied stays in
/// the processor's first cache (`scripts/bench-gate`, chunks a second).
pub(crate) const PIECE: usize = 4 * 1024;
/// Room behind it, for the ends of a chunk and of the stream.
pub(super) const BEHIND: usize = 16;

/// A client that takes nothing for so long is given up: it would hold a place at the backend for ever.
pub(super) const STALL: Duration = Duration::from_secs(60);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BEFORE + MIDDLE + BEHIND]);
}

/// Lends the scratch buffer; never across an await.
pub(crate) fn with_scratch<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| with(scratch))
}

/// Reads once and appends; 0 is the end.
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

/// Reads once, for nothing; 0 is the end.
pub(super) fn poll_discard(stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    with_scratch(|scratch| {
        let mut buffer = ReadBuf::new(scratch.get_mut(..MIDDLE).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

/// Sets a timer only where the first poll has to wait: most of what is waited for is there.
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

/// Writes everything, or gives up on a reader that takes nothing.
///
/// # Errors
/// The system's own, or `TimedOut`.
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
