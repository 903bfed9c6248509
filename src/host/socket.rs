//! Registers a socket for only the readiness we need.

use std::io;
use std::net::TcpStream;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking connection. tokio's own `TcpStream` always registers for reading and writing, and the one
/// that is not needed would wake the event loop for nothing.
pub(crate) fn register(stream: TcpStream, interest: Interest) -> io::Result<AsyncFd<TcpStream>> {
    #[expect(unsafe_code, reason = "tokio cannot know that a type keeps its descriptor")]
    // SAFETY: a TcpStream owns its descriptor, always returns the same one and closes it only when dropped; AsyncFd
    // hands it out by shared reference only, and deregisters before dropping it.
    let registered = unsafe { AsyncFd::register_with_interest(stream, interest) }?;
    Ok(registered)
}
