//! Notices when a client leaves while it waits for its answer. TCP reports only that its sending side has ended: it may
//! be gone, or it may still wait. Sending something tells these apart, because a system without the connection answers
//! with a reset. Every answer begins with the same bytes, so they are sent ahead of it, one at a time.

use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// The beginning of every answer, whatever its status.
const BEGINNING: &[u8] = b"HTTP/1.1 ";
/// Wait between the first byte sent ahead and the second, and the factor by which each later wait grows. A reset comes
/// within a round trip; the ninth and last byte is sent after about seven minutes.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGER: u32 = 4;

#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Bytes of the next answer already sent.
    ahead: AtomicUsize,
    /// Whether the rest of the answer is being sent.
    begun: AtomicBool,
    asking: Mutex<Option<Box<Asking>>>,
}

#[derive(Debug)]
struct Asking {
    timer: Pin<Box<Sleep>>,
    wait: Duration,
}

/// What to do about a client whose sending side has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    Left,
    /// Send something, to find out whether it is still there.
    Ask,
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: AtomicUsize::new(0), begun: AtomicBool::new(false), asking: Mutex::default() }
    }

    /// Starts over for the next answer, which has not begun.
    pub(crate) fn expects_answer(&mut self) {
        *self.begun.get_mut() = false;
        *self.asking.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The part of `answer` that has not been sent ahead; the caller sends it now.
    pub(crate) fn rest<'a>(&self, answer: &'a [u8]) -> &'a [u8] {
        self.begun.store(true, Relaxed);
        answer.get(self.ahead.swap(0, Relaxed)..).unwrap_or_default()
    }

    /// Resolves when the client has left or should be asked. Bytes of a next request are left unread, and hide an end
    /// of stream behind them.
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

    /// Sends one more byte ahead unless the answer has begun; `false` if the client has left.
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
            // Within an answer there is nothing to send ahead: a client whose sending side has ended counts as gone.
            let there = match ready!(self.poll_silence(cx)) {
                Silence::Left => false,
                Silence::Ask => !self.begun.load(Relaxed) && self.ask(),
            };
            if !there {
                return Poll::Ready(());
            }
        }
    }

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
