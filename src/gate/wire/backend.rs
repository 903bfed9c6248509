//! One connection to a backend: HTTP/1.0, one request, the answer ends with the connection.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::task::{Context, Poll, ready};

use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::stream::{MIDDLE, with_scratch};
use crate::api::http::{HEAD_MAX, with_head};
use crate::host;

/// A connection registered only for the readiness it needs: a tokio `TcpStream` registers for both kinds, which wakes
/// the event loop for nothing once per request.
#[derive(Debug)]
pub(crate) struct Link(AsyncFd<TcpStream>);

impl Link {
    /// Connects and sends without waiting. A loopback connection is established at once, so the first write nearly
    /// always succeeds without a turn of the event loop.
    ///
    /// # Errors
    /// Errors of the system; `ConnectionRefused` if nothing listens.
    pub(crate) fn open(address: SocketAddr, head: &[u8], body: &[u8]) -> io::Result<Opened> {
        let socket = nonblocking(Domain::for_address(address))?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let parts = [io::IoSlice::new(head), io::IoSlice::new(body)];
        let sent = match socket.send_vectored(&parts) {
            Ok(sent) => sent,
            Err(error) if not_yet(&error) => 0,
            Err(error) => return Err(error),
        };
        let whole = sent == head.len() + body.len();
        let interest = if whole { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        Ok(Opened { link: Self(host::socket::register(socket.into(), interest)?), sent })
    }

    /// Reads once; 0 means the end of the stream.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, place: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match guard.try_io(|stream| stream.get_ref().read(place)) {
                Ok(Ok(count)) => {
                    // A short read means that the socket is drained; new bytes are reported by a new event.
                    if count > 0 && count < place.len() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// Reads once and appends; 0 means the end of the stream.
    pub(crate) fn poll_append(&self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let place = scratch.get_mut(..MIDDLE).unwrap_or_default();
            let count = ready!(self.poll_read(cx, place))?;
            out.extend_from_slice(place.get(..count).unwrap_or_default());
            Poll::Ready(Ok(count))
        })
    }

    /// Reads once and discards; 0 means the end of the stream.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| self.poll_read(cx, scratch.get_mut(..MIDDLE).unwrap_or_default()))
    }

    /// Closes the sending side: the backend learns that its answer is not wanted, and what it still sends can be read.
    pub(crate) fn hang_up(&self) {
        // It fails only if the connection is gone already.
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
    }

    /// Writes once. A failed connect is reported here.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|stream| {
                // Take the result of a connect in progress first.
                stream.get_ref().take_error()?.map_or(Ok(()), Err)?;
                stream.get_ref().write_vectored(parts)
            }) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }
}

/// A new connection, and how much of the request it has taken.
#[derive(Debug)]
pub(crate) struct Opened {
    /// May still be connecting; see [`Link::poll_write`].
    pub link: Link,
    /// Bytes of head and body already sent.
    pub sent: usize,
}

/// Still connecting, or the send buffer is full. Linux returns `EAGAIN` for both, macOS `ENOTCONN` for the first.
fn not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected | io::ErrorKind::Interrupted
    )
}

fn nonblocking(domain: Domain) -> io::Result<Socket> {
    #[cfg(target_os = "linux")]
    return Socket::new(domain, Type::STREAM.nonblocking(), None);
    #[cfg(not(target_os = "linux"))]
    {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// The head of the backend's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerHead {
    /// Bytes of the head, its empty line included.
    pub bytes: usize,
    pub status: u16,
    /// `Content-Length` in bytes, if there is a valid one.
    pub length: Option<u64>,
    /// Whether the body is an event stream.
    pub events: bool,
}

impl AnswerHead {
    /// Parses the head at the start of `bytes`; `None` if it is incomplete.
    ///
    /// # Errors
    /// If it is not valid HTTP, or has no end within [`HEAD_MAX`] bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, String> {
        let read = with_head(bytes, |head| Self {
            bytes: head.bytes,
            status: head.status,
            length: head.value("content-length").and_then(|length| length.parse().ok()),
            events: head.value("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")),
        });
        match read {
            Ok(None) if bytes.len() >= HEAD_MAX => Err("the head of its answer is too long".to_owned()),
            read => read.map_err(|error| error.to_string()),
        }
    }
}
