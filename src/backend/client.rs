//! The two requests that the supervisor itself sends to a backend. `mlx_lm.server` speaks HTTP/1.0 and closes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::SECRET_HEADER;

/// More than any answer to the two requests has.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// What a backend answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, or the first 64 KiB of it.
    pub body: String,
}

impl Answer {
    /// `mlx_lm.server`'s `{"error": "text"}`, or the start of whatever it said.
    #[must_use]
    pub fn error(&self) -> String {
        serde_json::from_str::<serde_json::Value>(&self.body)
            .ok()
            .and_then(|value| value.get("error")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| self.body.chars().take(200).collect())
    }
}

/// `GET /health`: the server's thread and the generation thread live. It says nothing about progress.
///
/// # Errors
/// The socket's; `InvalidData` when what answers speaks no HTTP.
pub async fn health(port: u16, secret: &str) -> io::Result<Answer> {
    request(port, &format!("GET /health HTTP/1.0\r\n{SECRET_HEADER}: {secret}\r\n\r\n")).await
}

/// One token: the only proof of readiness. Takes as long as the model takes to load.
///
/// # Errors
/// As [`health`].
pub async fn one_token(port: u16, secret: &str) -> io::Result<Answer> {
    let body = r#"{"prompt":"a","max_tokens":1,"temperature":0}"#;
    let head = format!(
        "POST /v1/completions HTTP/1.0\r\n{SECRET_HEADER}: {secret}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    request(port, &head).await
}

async fn request(port: u16, text: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(&answer) {
        Ok(httparse::Status::Complete(head)) => Ok(Answer {
            status: response.code.unwrap_or(0),
            body: String::from_utf8_lossy(&answer[head..]).into_owned(),
        }),
        Ok(httparse::Status::Partial) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}
