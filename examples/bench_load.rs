//! The two ends between which `scripts/bench-gate` puts a proxy: a backend that behaves on the wire as
//! `mlx_lm.server` does (HTTP/1.0, a connection a request, the end of the connection is the end of a stream), but
//! costs next to nothing, and a load that measures. One JSON document on stdout; times in µs.
//!
//!     bench_load backend ADDRESS
//!     bench_load json    ADDRESS COUNT [BODY_BYTES]     one client, one request after the other
//!     bench_load first   ADDRESS COUNT                  time to the first event of a stream
//!     bench_load chunks  ADDRESS STREAMS EVENTS EVERY   events of so many streams at once, one every EVERY µs
//!     bench_load hold    ADDRESS STREAMS                slow streams, until standard input ends; checks each

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run = || -> Result<Value, Failure> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(dispatch(&arguments))
    };
    match run() {
        Ok(document) => say(&document),
        Err(error) => {
            let failed = say(&json!({ "error": error.to_string() }));
            if failed == ExitCode::SUCCESS { ExitCode::FAILURE } else { failed }
        }
    }
}

#[expect(clippy::print_stdout, reason = "its one document is its purpose")]
fn say(document: &Value) -> ExitCode {
    println!("{document}");
    ExitCode::SUCCESS
}

async fn dispatch(arguments: &[String]) -> Result<Value, Failure> {
    let text = |at: usize| arguments.get(at).map(String::as_str).ok_or("an argument is missing");
    let number = |at: usize| -> Result<u64, Failure> { Ok(text(at)?.parse()?) };
    let address = text(1)?;
    match text(0)? {
        "backend" => backend(address).await,
        "json" => json_requests(address, number(2)?, number(3).unwrap_or(0)).await,
        "first" => first_events(address, number(2)?).await,
        "chunks" => chunks(address, number(2)?, number(3)?, number(4)?).await,
        "hold" => hold(address, number(2)?).await,
        other => Err(format!("no such mode: {other}").into()),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

// The backend.

async fn backend(address: &str) -> Result<Value, Failure> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that goes away is what the proxy is tested for.
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

// The load.

/// One client's connection; opened again where the other end closes it, as the backend itself does.
struct Client {
    address: String,
    stream: Option<TcpStream>,
    /// What came and is not taken apart yet.
    raw: Vec<u8>,
    /// The body, without its framing.
    body: Vec<u8>,
    framing: Framing,
    /// Whether the connection ends with this answer.
    last: bool,
}

/// How the answer at hand goes on.
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
    fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            stream: None,
            raw: Vec::new(),
            body: Vec::new(),
            framing: Framing::Head,
            last: false,
        }
    }

    async fn send(&mut self, body: &str) -> io::Result<()> {
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
    async fn read(&mut self) -> Result<bool, Failure> {
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
            return if whole { Ok(true) } else { Err("the answer was cut".into()) };
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
                // HTTP/1.0: the connection is of no use after this answer.
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

    /// Reads until `end` came and the answer is over.
    async fn finish(&mut self, end: &[u8]) -> Result<(), Failure> {
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

fn request(extra: &str, padding: u64) -> String {
    let padding = "lorem ipsum dolor sit amet ".repeat(usize::try_from(padding / 27).unwrap_or(0));
    format!(
        "{{\"model\": \"tiny\", \"messages\": [{{\"role\": \"system\", \"content\": \"You are helpful.{padding}\"}}, {{\"role\": \"user\", \"content\": \"What are the trade-offs between distributed and single-node inference?\"}}], \"max_tokens\": 200, \"temperature\": 0.7, \"top_p\": 0.9{extra}}}"
    )
}

async fn json_requests(address: &str, count: u64, padding: u64) -> Result<Value, Failure> {
    let mut client = Client::new(address);
    let body = request("", padding);
    let mut times = Vec::new();
    for round in 0..count + count / 10 {
        let started = Instant::now();
        client.send(&body).await?;
        client.finish(b"completion_tokens").await?;
        if round >= count / 10 {
            times.push(micros(started.elapsed()));
        }
    }
    Ok(summary(times))
}

async fn first_events(address: &str, count: u64) -> Result<Value, Failure> {
    let mut client = Client::new(address);
    let body = request(", \"stream\": true, \"events\": 3", 0);
    let mut times = Vec::new();
    for round in 0..count + count / 10 {
        let started = Instant::now();
        client.send(&body).await?;
        while memchr::memmem::find(&client.body, b"data: ").is_none() {
            if !client.read().await? {
                return Err("the stream ended before it began".into());
            }
        }
        if round >= count / 10 {
            times.push(micros(started.elapsed()));
        }
        client.finish(b"data: [DONE]").await?;
    }
    Ok(summary(times))
}

async fn chunks(address: &str, streams: u64, events: u64, every: u64) -> Result<Value, Failure> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for id in 0..streams {
        let mut client = Client::new(address);
        tasks.push(tokio::spawn(async move {
            // Spread over the interval, so that they do not come in bursts.
            if every > 0 {
                tokio::time::sleep(Duration::from_micros(every * id / streams)).await;
            }
            let extra = format!(", \"stream\": true, \"id\": {id}, \"events\": {events}, \"every\": {every}");
            client.send(&request(&extra, 0)).await?;
            let (mut times, mut seen) = (Vec::new(), 0);
            loop {
                let more = client.read().await?;
                let at = now();
                while let Some(found) =
                    memchr::memmem::find(client.body.get(seen..).unwrap_or_default(), b"\"at\": ")
                {
                    let digits = client.body.get(seen + found + 6..seen + found + 25).unwrap_or_default();
                    if digits.len() < 19 {
                        break;
                    }
                    let sent: u64 = std::str::from_utf8(digits)?.parse()?;
                    times.push(at.saturating_sub(sent) as f64 / 1000.0);
                    seen += found + 25;
                }
                if memchr::memmem::find(client.body.get(seen..).unwrap_or_default(), b"data: [DONE]")
                    .is_some()
                {
                    break;
                }
                if !more {
                    return Err::<Vec<f64>, Failure>("the stream was cut".into());
                }
                client.body.drain(..seen);
                seen = 0;
            }
            let expected = usize::try_from(events)?;
            if times.len() != expected {
                return Err(format!("{} events instead of {expected}", times.len()).into());
            }
            Ok(times)
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let seconds = started.elapsed().as_secs_f64();
    let mut document = summary(times);
    document["per_second"] = ((streams * events) as f64 / seconds).into();
    Ok(document)
}

/// Opens the streams, says `{"open": N}`, holds them, and then checks that each got its own events, in order.
async fn hold(address: &str, streams: u64) -> Result<Value, Failure> {
    let (events, every) = (12_u64, 1_000_000_u64);
    let mut tasks = Vec::new();
    let (opened, mut count) = tokio::sync::mpsc::unbounded_channel();
    for id in 0..streams {
        let mut client = Client::new(address);
        let opened = opened.clone();
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(700 * id)).await;
            let extra = format!(", \"stream\": true, \"id\": {id}, \"events\": {events}, \"every\": {every}");
            client.send(&request(&extra, 0)).await?;
            while memchr::memmem::find(&client.body, b"\"at\": ").is_none() {
                if !client.read().await? {
                    return Err::<bool, Failure>("the stream ended before it began".into());
                }
            }
            let _ = opened.send(());
            client.finish(b"data: [DONE]").await?;
            let text = String::from_utf8_lossy(&client.body);
            let ids: Vec<&str> =
                text.split("\"chatcmpl-").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            let wanted: Vec<String> = (0..events).map(|event| format!("{id}-{event}")).collect();
            Ok(ids == wanted)
        }));
    }
    for _ in 0..streams {
        count.recv().await;
    }
    say(&json!({ "open": streams }));
    let (mut whole, mut lost, mut mixed) = (0, 0, 0);
    for task in tasks {
        match task.await? {
            Ok(true) => whole += 1,
            Ok(false) => mixed += 1,
            Err(_) => lost += 1,
        }
    }
    Ok(json!({ "whole": whole, "lost": lost, "mixed": mixed }))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into what was counted")]
fn summary(mut times: Vec<f64>) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len().saturating_sub(1) as f64 * share) as usize).copied();
    json!({ "count": times.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99) })
}
