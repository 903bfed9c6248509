//! Closes a connection whose client may still be sending. Closing it with unread bytes would send a reset, and the
//! client would lose its answer.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::stream::{by, poll_discard};

/// Slowest rate of a body, in bytes per second, once the read timeout is over.
pub(crate) const SLOWEST: u64 = 64 * 1024;
/// A client that is still sending after its answer is read for this long, beyond what [`SLOWEST`] allows, and up to
/// this many bytes: some clients read nothing before they have sent everything.
pub(crate) const LINGER: Duration = Duration::from_secs(10);
const LINGER_BYTES: u64 = 64 << 20;
/// A client counts as done when it has sent nothing for this long.
const QUIET: Duration = Duration::from_secs(1);

/// Closes a connection after an answer; the client still has `owed` bytes of a body to send.
pub(crate) async fn part(stream: &mut TcpStream, owed: u64, patience: Duration) {
    discard(stream, owed.min(LINGER_BYTES), patience).await;
    let _ = stream.shutdown().await;
    discard(stream, LINGER_BYTES, patience).await;
}

/// Reads and discards up to `most` bytes.
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
