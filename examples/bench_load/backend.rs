//! The backend: behaves on the wire like `mlx_lm.server`, at almost no cost.

use std::convert::Infallible;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{Failure, now};

/// Answers until the process ends.
pub async fn serve(address: &str) -> Result<Infallible, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // The kernel distributes connections among the threads.
    socket.set_reuseport(true)?;
    socket.bind(address.parse()?)?;
    let listener = socket.listen(1024)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // Clients that leave are part of what the proxy is tested for.
            let _ = answer(stream).await;
        });
    }
}

async fn answer(mut stream: TcpStream) -> Result<(), Failure> {
    let mut bytes = Vec::with_capacity(2048);
    let body = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        if let Some(body) = body_of(&bytes) {
            break serde_json::from_slice::<Value>(body)?;
        }
    };
    drop(bytes);
    let number = |key: &str| body.get(key).and_then(Value::as_u64);
    if body.get("stream").and_then(Value::as_bool) != Some(true) {
        let text = r#"{"id": "x", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello there, this is an answer."}}], "usage": {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}}"#;
        let head = format!(
            "HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6\r\nContent-type: application/json\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(text.as_bytes()).await?;
        return Ok(());
    }
    let (events, every) = (number("events").unwrap_or(10), number("every").unwrap_or(0));
    let id = number("id").unwrap_or(0);
    stream.write_all(b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6\r\nContent-type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n").await?;
    let started = tokio::time::Instant::now();
    for event in 0..events {
        if every > 0 {
            tokio::time::sleep_until(started + Duration::from_micros(every * event)).await;
        }
        let text = format!(
            "data: {{\"id\": \"chatcmpl-{id}-{event}\", \"at\": {}, \"object\": \"chat.completion.chunk\", \"choices\": [{{\"index\": 0, \"finish_reason\": null, \"delta\": {{\"role\": \"assistant\", \"content\": \" word\"}}}}]}}\n\n",
            now()
        );
        stream.write_all(text.as_bytes()).await?;
    }
    stream.write_all(b"data: [DONE]\n\n").await?;
    Ok(())
}

fn body_of(bytes: &[u8]) -> Option<&[u8]> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?.to_ascii_lowercase();
    let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    bytes.get(end..end + length)
}
