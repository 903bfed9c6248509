//! A client while its answer is awaited. TCP only says that nothing more will come: so does a client that has left, and
//! so does one that has closed its sending side and waits for its answer. What is sent tells them apart, because a
//! system without the connection answers with a reset. Every answer begins with the same bytes, so they are sent
//! ahead of it, one at a time.

use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What every answer begins with.
const BEGINNING: &[u8] = b"HTTP/1.1 ";
/// From the first byte sent ahead to the second, and how much longer each next wait is. A reset comes within a round
/// trip; the nine bytes last for twenty minutes.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGER: u32 = 4;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Bytes of the next answer that are out.
    ahead: AtomicUsize,
    /// Whether more than those are.
    begun: AtomicBool,
    asking: Mutex<Option<Box<Asking>>>,
}

#[derive(Debug)]
struct Asking {
    timer: Pin<Box<Sleep>>,
    wait: Duration,
}

/// What the end of a client's sending side calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It has left.
    Left,
    /// Something should be sent, to see whether it is still there.
    Ask,
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: AtomicUsize::new(0), begun: AtomicBool::new(false), asking: Mutex::default() }
    }

    /// The next answer has not begun.
    pub(crate) fn expects_answer(&mut self) {
        *self.begun.get_mut() = false;
        *self.asking.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What of `answer`, which is to be written now, is not out yet.
    pub(crate) fn rest<'a>(&self, answer: &'a [u8]) -> &'a [u8] {
        self.begun.store(true, Relaxed);
        answer.get(self.ahead.swap(0, Relaxed)..).unwrap_or_default()
    }

    /// Resolves when the client has left or should be asked. Bytes of a next request are left alone; an end behind them
    /// is not seen.
    pub(crate) fn poll_silence(&self, cx: &mut Context<'_>) -> Poll<Silence> {
        let mut byte = [0];
        match self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Silence::Left),
            Poll::Ready(Ok(_)) | Poll::Pending => return Poll::Pending,
        }
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = match &mut *asking {
            None => FIRST_WAIT,
            Some(before) => {
                ready!(before.timer.as_mut().poll(cx));
                before.wait * LONGER
            }
        };
        *asking = Some(Box::new(Asking { timer: Box::pin(sleep(wait)), wait }));
        Poll::Ready(Silence::Ask)
    }

    /// Sends one more byte ahead, if the answer has not begun; `false`: the client has left.
    pub(crate) fn ask(&self) -> bool {
        let ahead = self.ahead.load(Relaxed);
        let next = BEGINNING.get(ahead..=ahead).unwrap_or_default();
        if next.is_empty() || self.begun.load(Relaxed) {
            return true;
        }
        match self.stream.try_write(next) {
            Ok(written) => {
                self.ahead.store(ahead + written, Relaxed);
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// Resolves when the client has left.
    pub(crate) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // In the middle of an answer there is nothing that could be sent ahead.
            let there = match ready!(self.poll_silence(cx)) {
                Silence::Left => false,
                Silence::Ask => !self.begun.load(Relaxed) && self.ask(),
            };
            if !there {
                return Poll::Ready(());
            }
        }
    }

    /// As [`Self::poll_left`].
    pub(crate) async fn left(&self) {
        std::future::poll_fn(|cx| self.poll_left(cx)).await;
    }
}

impl Deref for Client {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}
