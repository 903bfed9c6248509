//! The end of a connection whose client may still be sending: what it was told must reach it, and a reset would take it
//! away.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::stream::{by, poll_discard};

/// Bodies may come this slowly, bytes a second, once the read time-out is over.
pub(crate) const SLOWEST: u64 = 64 * 1024;
/// A client that is still sending sees its answer, and not a reset, if it is done within this time beside
/// [`SLOWEST`], and this many bytes. Some read nothing before they have sent everything.
pub(crate) const LINGER: Duration = Duration::from_secs(10);
const LINGER_BYTES: u64 = 64 << 20;
/// It counts as done when it has sent nothing for this long.
const QUIET: Duration = Duration::from_secs(1);

/// Ends a connection whose client was told something, and has still `owed` bytes of a body to send.
pub(crate) async fn part(stream: &mut TcpStream, owed: u64, patience: Duration) {
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
