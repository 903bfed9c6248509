//! Registers a socket for only the readiness we need.

use std::io;
use std::net::TcpStream;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a connection that does not block. tokio's own `TcpStream` always asks for both readiness kinds, and
/// any other would wake the event loop for nothing.
pub(crate) fn register(stream: TcpStream, interest: Interest) -> io::Result<AsyncFd<TcpStream>> {
    #[expect(unsafe_code, reason = "tokio cannot know that a type keeps its descriptor")]
    // SAFETY: a TcpStream owns its descriptor, names the same one for all of its life and closes it only when it is
    // dropped; AsyncFd gives it out by shared reference only, and deregisters before it drops it.
    let registered = unsafe { AsyncFd::register_with_interest(stream, interest) }?;
    Ok(registered)
}
