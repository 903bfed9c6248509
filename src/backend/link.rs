//! The link: the launcher pushes what only the backend itself knows, as it happens. The protocol is in
//! `docs/architecture.md`, "The link".

use crate::api::{RankStatus, StoreFacts};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::units::Percent;

/// Longest line that a launcher may send, bytes; a longer one is an error.
const LONGEST_LINE: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Message {
    Event(LinkEvent),
    /// The answer to the oldest open request.
    Reply(Reply),
}

/// Events that the launcher, or a conductor, pushes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LinkEvent {
    /// The first line: the state so far.
    Hello {
        generation: u64,
        /// Where `mlx_lm.server` listens; `None`: not yet.
        port: Option<u16>,
        thread: Thread,
        /// The last error logged, if the thread is dead.
        error: Option<String>,
    },
    /// `mlx_lm.server` listens on this port of 127.0.0.1.
    Listening { port: u16 },
    /// The server's listening socket was closed, shut down or detached, although the server was not told to end.
    ListenerClosed,
    /// The generation thread ended, although the server was not told to end.
    ThreadDied {
        /// The last error logged, if any.
        error: Option<String>,
    },
    /// The process is about to end.
    Exiting { code: i32, error: Option<String> },
    /// Contents and counters of the store of kept prompts, after each change.
    Store(StoreFacts),
    /// From a conductor: a rank is lost, and the whole group is being taken down.
    GroupLost {
        /// The verdict, with rank and host.
        error: String,
    },
    /// From a conductor: the state of all ranks.
    Ranks {
        ranks: Vec<RankStatus>,
        /// CPU time of the rank that has used least, milliseconds: it holds up the others.
        cpu_ms: Option<u64>,
    },
}

/// State of the generation thread of `mlx_lm.server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thread {
    /// It has not been started yet.
    None,
    Alive,
    Dead,
}

/// The launcher's answers, one for each kind of [`Request`]. A value that is not known yet is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Bytes by `mx.get_*_memory`.
    Memory {
        /// Held by live arrays.
        active: Option<u64>,
        /// Held by MLX's buffer cache.
        cache: Option<u64>,
        /// Highest value of `active` so far.
        peak: Option<u64>,
    },
    /// The launcher writes into the new file from now on.
    ReopenLog,
    /// The request failed; its reason is not used.
    Error,
    Pace,
    Trim {
        /// Bytes by which MLX's memory shrank.
        freed: Option<u64>,
    },
    Release {
        /// Bytes by which MLX's memory shrank.
        freed: Option<u64>,
    },
    Forget {
        /// Bytes by which MLX's memory shrank.
        freed: Option<u64>,
    },
}

/// Requests to the launcher, answered in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Report memory as MLX counts it.
    Memory,
    Trim,
    /// As [`Request::Trim`], and drop kept prompts after writing them to the store. The server completes a token for
    /// this, which waits behind requests in flight, so only ask idle backends.
    Release,
    /// As [`Request::Release`], but prompts are neither written nor left on disk.
    Forget,
    /// Reopen the log file, after it was rotated.
    ReopenLog,
    /// Work this share of the time from now on; `None`: all of it.
    Pace {
        percent: Option<Percent>,
    },
}

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
    /// `NotFound` or `ConnectionRefused` until the launcher has bound the socket.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        let reader = BufReader::with_capacity(512, reader.take(LONGEST_LINE));
        Ok(Self { reader, writer, line: Vec::new() })
    }

    /// The next message. Cancel-safe: a line read in part is kept for the next call.
    ///
    /// # Errors
    /// `UnexpectedEof` when the launcher is gone, `InvalidData` if the line is not a message or too long.
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

    /// Sends a request; answers come through [`Link::next`], in order.
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
    fn lines_of_the_protocol_are_understood() {
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
            "a request that failed is answered, too"
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
            // Ends with a broken pipe once the reader gives up.
            while peer.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        assert_eq!(link.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(link.line.len() as u64 <= LONGEST_LINE);
        drop(link);
        flood.await.unwrap();
    }
}
