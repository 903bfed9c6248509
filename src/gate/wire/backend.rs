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

/// The connection. It is registered for what it will be asked for only: every readiness that nobody waits for
/// wakes the event loop once for nothing, which a tokio `TcpStream` does for each request.
#[derive(Debug)]
pub(crate) struct Link(AsyncFd<TcpStream>);

impl Link {
    /// Connects and sends without waiting: on loopback the connection is there at once, so that the first write
    /// nearly always succeeds before the event loop was asked even once.
    ///
    /// # Errors
    /// The system's own; `ConnectionRefused` if nothing listens.
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

    /// Reads once; 0 is the end.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, place: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match guard.try_io(|stream| stream.get_ref().read(place)) {
                Ok(Ok(count)) => {
                    // Fewer bytes than asked for: it is drained, and what comes next is told anew.
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

    /// Reads once and appends; 0 is the end.
    pub(crate) fn poll_append(&self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let place = scratch.get_mut(..MIDDLE).unwrap_or_default();
            let count = ready!(self.poll_read(cx, place))?;
            out.extend_from_slice(place.get(..count).unwrap_or_default());
            Poll::Ready(Ok(count))
        })
    }

    /// Reads once, for nothing; 0 is the end.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| self.poll_read(cx, scratch.get_mut(..MIDDLE).unwrap_or_default()))
    }

    /// Tells the backend that nothing more is wanted of it; what it still sends can be read.
    pub(crate) fn hang_up(&self) {
        // An error means that it is gone already.
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
    }

    /// Writes once.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|stream| {
                // The outcome of connecting comes this way.
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

/// A connection that may have been sent something already.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The connection, perhaps not established yet.
    pub link: Link,
    /// Bytes that are out.
    pub sent: usize,
}

/// Still connecting, or its buffer is full. Linux says `EAGAIN` for both, macOS `ENOTCONN` for the first.
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
    /// Bytes that it takes.
    pub bytes: usize,
    /// HTTP status.
    pub status: u16,
    /// Of the body, where it is told.
    pub length: Option<u64>,
    /// Whether the body is a stream of events.
    pub events: bool,
}

impl AnswerHead {
    /// Reads the head from the front of `bytes`; `None`: it is not all there yet.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, String> {
        let read = with_head(bytes, |head| Self {
            bytes: head.bytes,
            status: head.status,
            length: head.value("content-length").and_then(|length| length.parse().ok()),
            events: head.value("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")),
        });
        match read {
            Ok(None) if bytes.len() >= HEAD_MAX => Err("its answer's head has no end".to_owned()),
            read => read.map_err(|error| error.to_string()),
        }
    }
}
