//! The two requests that the supervisor itself sends to a backend. `mlx_lm.server` speaks HTTP/1.0 and closes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::http::with_head;
use crate::backend::SECRET_HEADER;

/// Longest answer that is read, bytes; the answers to both requests are far shorter.
const LONGEST_ANSWER: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: u16,
    /// The body, or the first 64 KiB of it.
    pub body: String,
}

impl Answer {
    /// The text of `mlx_lm.server`'s `{"error": "text"}`, else the first 200 characters of the body.
    pub(crate) fn error(&self) -> String {
        serde_json::from_str::<serde_json::Value>(&self.body)
            .ok()
            .and_then(|value| value.get("error")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| self.body.chars().take(200).collect())
    }
}

/// `GET /health`: 200 means that the HTTP and generation threads live. It says nothing about progress.
///
/// # Errors
/// The socket's; `InvalidData` if the answer is not HTTP.
pub(crate) async fn health(port: u16, secret: &str) -> io::Result<Answer> {
    request(port, &format!("GET /health HTTP/1.0\r\n{SECRET_HEADER}: {secret}\r\n\r\n")).await
}

/// Completes one token, the only proof of readiness. Takes as long as the model takes to load.
pub(crate) async fn one_token(port: u16, secret: &str) -> io::Result<Answer> {
    let body = r#"{"prompt":"a","max_tokens":1,"temperature":0}"#;
    let head = request_head("/v1/completions", secret, body.len());
    request(port, &[&head, body].concat()).await
}

/// The head of a request that generates.
pub(crate) fn request_head(path: &str, secret: &str, length: usize) -> String {
    // Concatenated, not formatted: this runs for every request.
    [
        "POST ",
        path,
        " HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ",
        itoa::Buffer::new().format(length),
        "\r\n",
        SECRET_HEADER,
        ": ",
        secret,
        "\r\n\r\n",
    ]
    .concat()
}

async fn request(port: u16, text: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    let read = with_head(&answer, |head| Answer {
        status: head.status,
        body: String::from_utf8_lossy(answer.get(head.bytes..).unwrap_or_default()).into_owned(),
    });
    read?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
