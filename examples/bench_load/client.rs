//! One client's connection, and an HTTP reader that parses answers as they arrive.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Failure;

/// One client's connection; reopened if the other end closes it, as the backend itself does.
pub struct Client {
    address: String,
    stream: Option<TcpStream>,
    /// What has arrived but is not parsed yet.
    raw: Vec<u8>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    framing: Framing,
    /// Whether the connection ends with this answer.
    last: bool,
}

/// How the current answer continues.
#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Head,
    Length(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd { last: bool },
    UntilClose,
    Over,
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            stream: None,
            raw: Vec::new(),
            body: Vec::new(),
            framing: Framing::Head,
            last: false,
        }
    }

    pub async fn send(&mut self, body: &str) -> io::Result<()> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        let text = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.raw.clear();
        self.body.clear();
        self.framing = Framing::Head;
        self.stream()?.write_all(text.as_bytes()).await
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Reads once; `false`: the answer is over.
    pub async fn read(&mut self) -> Result<bool, Failure> {
        if self.framing == Framing::Over {
            return Ok(false);
        }
        let mut raw = std::mem::take(&mut self.raw);
        let count = self.stream()?.read_buf(&mut raw).await?;
        self.raw = raw;
        if count == 0 {
            self.stream = None;
            let whole = self.framing == Framing::UntilClose;
            self.framing = Framing::Over;
            return if whole { Ok(true) } else { Err("the answer was cut off".into()) };
        }
        while self.take_apart()? {}
        Ok(true)
    }

    fn take_apart(&mut self) -> Result<bool, Failure> {
        match self.framing {
            Framing::Over => return Ok(false),
            Framing::Head => {
                let Some(end) = memchr::memmem::find(&self.raw, b"\r\n\r\n") else { return Ok(false) };
                let head =
                    String::from_utf8_lossy(self.raw.get(..end).unwrap_or_default()).to_ascii_lowercase();
                if head.split(' ').nth(1) != Some("200") {
                    return Err(format!("not 200: {}", String::from_utf8_lossy(&self.raw)).into());
                }
                self.raw.drain(..end + 4);
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                self.framing = match length.and_then(|digits| digits.parse().ok()) {
                    Some(length) => Framing::Length(length),
                    None if head.contains("transfer-encoding: chunked") => Framing::ChunkSize,
                    None => Framing::UntilClose,
                };
                // HTTP/1.0: the connection cannot be used after this answer.
                self.last = head.starts_with("http/1.0") && !head.contains("connection: keep-alive");
            }
            Framing::UntilClose => {
                self.body.append(&mut self.raw);
                return Ok(false);
            }
            Framing::Length(left) | Framing::Chunk(left) => {
                let count = left.min(self.raw.len());
                self.body.extend(self.raw.drain(..count));
                let chunk = matches!(self.framing, Framing::Chunk(_));
                self.framing = match (chunk, left - count) {
                    (true, 0) => Framing::ChunkEnd { last: false },
                    (true, left) => Framing::Chunk(left),
                    (false, 0) => Framing::Over,
                    (false, left) => Framing::Length(left),
                };
                return Ok(left == count);
            }
            Framing::ChunkSize => {
                let Some(end) = memchr::memmem::find(&self.raw, b"\r\n") else { return Ok(false) };
                let digits = String::from_utf8_lossy(self.raw.get(..end).unwrap_or_default()).into_owned();
                self.raw.drain(..end + 2);
                self.framing = match usize::from_str_radix(&digits, 16)? {
                    0 => Framing::ChunkEnd { last: true },
                    size => Framing::Chunk(size),
                };
            }
            Framing::ChunkEnd { last } => {
                if self.raw.len() < 2 {
                    return Ok(false);
                }
                self.raw.drain(..2);
                self.framing = if last { Framing::Over } else { Framing::ChunkSize };
            }
        }
        Ok(true)
    }

    /// Reads until `end` has arrived and the answer is over.
    pub async fn finish(&mut self, end: &[u8]) -> Result<(), Failure> {
        while self.read().await? {}
        if self.last {
            self.stream = None;
        }
        if memchr::memmem::find(&self.body, end).is_none() {
            return Err(format!("an answer without its end: {}", String::from_utf8_lossy(&self.body)).into());
        }
        Ok(())
    }
}
