//! The link: what only the inside of a backend knows, pushed as it happens. The protocol is in
//! `docs/architecture.md`, "The link".

use crate::api::{RankStatus, StoreFacts};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::units::Percent;

/// The longest line that a launcher may send; a longer one is garbage.
const LONGEST_LINE: u64 = 64 * 1024;

/// A line from the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// Pushed.
    Event(LinkEvent),
    /// The answer to a request.
    Reply(Reply),
}

/// What the launcher pushes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LinkEvent {
    /// The first line: everything that was pushed before we came.
    Hello {
        generation: u64,
        /// Where `mlx_lm.server` listens, once it does.
        port: Option<u16>,
        thread: Thread,
        /// The last error, if the thread is dead.
        error: Option<String>,
    },
    /// `mlx_lm.server` listens.
    Listening {
        /// On loopback.
        port: u16,
    },
    /// The server's listening socket was closed, shut down or detached without a request to end.
    ListenerClosed,
    /// The generation thread ended without a request to.
    ThreadDied {
        /// The last error that was logged.
        error: Option<String>,
    },
    /// The process is about to end.
    Exiting {
        code: i32,
        /// The last error that was logged.
        error: Option<String>,
    },
    /// What the store of kept prompts holds and did: after each change.
    Store(StoreFacts),
    /// A rank is lost, and the whole group is being taken down: a conductor's alone.
    GroupLost {
        /// The state of a rank, by number and host.
        error: String,
    },
    /// The ranks of a model that runs on several: a conductor's alone.
    Ranks {
        ranks: Vec<RankStatus>,
        /// The least CPU time that one of them has used, milliseconds: the slowest holds the others up.
        cpu_ms: Option<u64>,
    },
}

/// The generation thread of `mlx_lm.server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thread {
    /// Not made yet.
    None,
    /// It runs.
    Alive,
    /// It ended.
    Dead,
}

/// The launcher's answers. A value that is not known yet is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Memory`], bytes as `mx.get_*_memory` tell them.
    Memory {
        /// Held by arrays.
        active: Option<u64>,
        /// Held by the buffer cache.
        cache: Option<u64>,
        /// The most that `active` has been.
        peak: Option<u64>,
    },
    /// To [`Request::ReopenLog`]: it writes into the new file.
    ReopenLog,
    /// It could not be done; why is not needed.
    Error,
    /// To [`Request::Pace`].
    Pace,
    /// To [`Request::Trim`].
    Trim {
        /// Bytes that MLX holds less than before.
        freed: Option<u64>,
    },
    /// To [`Request::Release`].
    Release {
        /// Bytes that MLX holds less than before.
        freed: Option<u64>,
    },
    /// To [`Request::Forget`].
    Forget {
        /// Bytes that MLX holds less than before.
        freed: Option<u64>,
    },
}

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// MLX's own count.
    Memory,
    /// Empty MLX's buffer cache.
    Trim,
    /// The same, and give kept prompts up, for which the server completes a token: only of a backend that is idle,
    /// for it waits its turn behind what is in flight.
    Release,
    /// As [`Request::Release`], and nothing of kept prompts is written, or left on disk.
    Forget,
    /// Go on in a new log file.
    ReopenLog,
    /// Work for this share of the time from now on; `None`: all of it.
    Pace { percent: Option<Percent> },
}

/// A connected link.
#[derive(Debug)]
pub struct Link {
    reader: BufReader<tokio::io::Take<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    line: Vec<u8>,
}

impl Link {
    /// Connects to a launcher's socket.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` as long as the launcher has not bound it.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        let reader = BufReader::with_capacity(512, reader.take(LONGEST_LINE));
        Ok(Self { reader, writer, line: Vec::new() })
    }

    /// The next line. Safe to drop while it waits: what was read stays for the next call.
    ///
    /// # Errors
    /// `UnexpectedEof` when the launcher is gone, `InvalidData` if it is not a message.
    pub async fn next(&mut self) -> io::Result<Message> {
        let read = self.reader.read_until(b'\n', &mut self.line).await?;
        if !self.line.ends_with(b"\n") {
            let kind = if read == 0 { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
            return Err(kind.into());
        }
        self.reader.get_mut().set_limit(LONGEST_LINE);
        let message = serde_json::from_slice(&self.line).map_err(io::Error::from);
        self.line.clear();
        message
    }

    /// Asks; the answer comes through [`Link::next`], in order.
    ///
    /// # Errors
    /// The socket's.
    pub async fn ask(&mut self, request: Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_protocol_is_understood() {
        let message = |line: &str| serde_json::from_str::<Message>(line).unwrap();
        assert_eq!(
            message(
                r#"{"event":"hello","protocol":1,"generation":7,"pid":4711,"port":null,"thread":"none","error":null}"#
            ),
            Message::Event(LinkEvent::Hello { generation: 7, port: None, thread: Thread::None, error: None })
        );
        assert_eq!(
            message(r#"{"event":"listening","port":50123}"#),
            Message::Event(LinkEvent::Listening { port: 50123 })
        );
        assert_eq!(message(r#"{"event":"listener_closed"}"#), Message::Event(LinkEvent::ListenerClosed));
        assert_eq!(
            message(r#"{"event":"thread_died","error":"boom"}"#),
            Message::Event(LinkEvent::ThreadDied { error: Some("boom".into()) })
        );
        assert_eq!(
            message(r#"{"reply":"memory","active":1,"cache":2,"peak":3}"#),
            Message::Reply(Reply::Memory { active: Some(1), cache: Some(2), peak: Some(3) })
        );
        assert_eq!(message(r#"{"reply":"reopen_log"}"#), Message::Reply(Reply::ReopenLog));
        assert_eq!(
            message(r#"{"reply":"error","error":"OSError: no"}"#),
            Message::Reply(Reply::Error),
            "a launcher that cannot says so"
        );
        assert_eq!(serde_json::to_string(&Request::ReopenLog).unwrap(), r#"{"op":"reopen_log"}"#);
        let pace = |percent| serde_json::to_string(&Request::Pace { percent }).unwrap();
        assert_eq!(pace(Some(Percent(50))), r#"{"op":"pace","percent":50}"#);
        assert_eq!(pace(None), r#"{"op":"pace","percent":null}"#);
        assert_eq!(message(r#"{"reply":"pace"}"#), Message::Reply(Reply::Pace));
        assert_eq!(serde_json::to_string(&Request::Trim).unwrap(), r#"{"op":"trim"}"#);
        assert_eq!(serde_json::to_string(&Request::Release).unwrap(), r#"{"op":"release"}"#);
        assert_eq!(
            message(r#"{"reply":"release","freed":4}"#),
            Message::Reply(Reply::Release { freed: Some(4) })
        );
    }

    #[tokio::test]
    async fn garbage_and_endless_lines_are_errors_and_cost_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let mut link = Link::connect(&path).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.write_all(b"no json\n").await.unwrap();
        assert_eq!(link.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let flood = tokio::spawn(async move {
            // Ends with a broken pipe once the reader has had enough.
            while peer.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        assert_eq!(link.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(link.line.len() as u64 <= LONGEST_LINE);
        drop(link);
        flood.await.unwrap();
    }
}
