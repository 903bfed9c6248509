//! A gate in the test's own process, and a client that sees every byte.

use std::net::SocketAddr;
use std::time::Duration;

use mlxctl::internals::gate::{Availability, Gate, GateConfig, Report};
use mlxctl::internals::registry::{Limits, Network, Start};
use mlxctl::internals::units::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::PATIENCE;
use super::upstream::Backend;

/// A gate, and both ends of the channels that the supervisor holds.
pub struct Door {
    pub gate: Gate,
    pub config: GateConfig,
    pub availability: watch::Sender<Availability>,
    pub reports: mpsc::UnboundedReceiver<(String, Report)>,
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

/// The configuration for tests that do not set their own.
pub fn config(folder: &tempfile::TempDir) -> GateConfig {
    GateConfig {
        name: "tiny".to_owned(),
        accepted: vec!["tiny".to_owned(), "small".to_owned(), "org/tiny-4bit".to_owned()],
        presets: Vec::new(),
        start: Start::Always,
        port: super::free_port(),
        network: Network {
            host: [127, 0, 0, 1].into(),
            allow_from: Vec::new(),
            allow_origins: vec!["https://ui.example".to_owned()],
            allow_hosts: vec!["tpm-macbook.local".to_owned()],
            require_key: false,
        },
        limits: Limits {
            in_flight: 2000,
            queue: 100,
            queue_timeout: PATIENCE,
            connections: 4000,
            body: Bytes(1 << 20),
            max_tokens: Some(4096),
            messages: 100,
            read_timeout: PATIENCE,
            remote_images: false,
        },
        context: Some(32_768),
        counted: false,
        default_tokens: 512,
        vocabulary: Some(512),
        variables: Some(std::collections::BTreeSet::new()),
        keys: folder.path().join("keys.json"),
        access_log: folder.path().join("tiny.access.log"),
    }
}

impl Door {
    /// Opens a gate; `change` adapts the configuration.
    pub async fn open(now: Availability, change: impl FnOnce(&mut GateConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder);
        change(&mut config);
        let (availability, ready) = watch::channel(now);
        let (sender, reports) = mpsc::unbounded_channel();
        let gate = Gate::spawn(config.clone(), ready, sender);
        let address = SocketAddr::new(config.network.host, config.port);
        let mut door = Self { gate, config, availability, reports, address, _folder: folder };
        door.listening().await;
        door
    }

    /// Opens a gate in front of `backend`, generation 1.
    pub async fn before(backend: &Backend) -> Self {
        Self::open(Availability::Ready(backend.upstream(1)), |_| {}).await
    }

    /// The next report of where it listens.
    pub async fn listening(&mut self) -> (Vec<SocketAddr>, Option<String>) {
        loop {
            let report =
                tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("no report").unwrap();
            if let Report::Listening { addresses, problem } = report.1 {
                return (addresses, problem);
            }
        }
    }

    /// The next report that a run looks bad.
    pub async fn suspect(&mut self) -> u64 {
        loop {
            let report =
                tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("no report").unwrap();
            if let Report::Suspect { generation, .. } = report.1 {
                return generation;
            }
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// A request on a connection of its own.
    pub async fn post(&self, path: &str, body: &str) -> Answer {
        let mut client = self.client().await;
        client.post(path, body).await;
        client.answer().await
    }

    pub async fn chat(&self, more: &str) -> Answer {
        self.post("/v1/chat/completions", &chat(more)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        let mut client = self.client().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        client.answer().await
    }

    /// Waits until this many requests are queued.
    pub async fn queued(&self, count: u64) {
        while self.gate.traffic().queued() != count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The access log, once it has `lines` lines.
    pub async fn log(&self, lines: usize) -> String {
        loop {
            let text = std::fs::read_to_string(&self.config.access_log).unwrap_or_default();
            if text.lines().count() >= lines {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A chat with one message; `more` follows it: `, "stream": true`.
pub fn chat(more: &str) -> String {
    format!("{{\"model\": \"tiny\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hi\"}}]{more}}}")
}

/// A response without its framing.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn error(&self) -> Value {
        self.json()["error"].clone()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// One connection to a gate.
pub struct Client {
    pub stream: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), bytes: Vec::new() }
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn post(&mut self, path: &str, body: &str) {
        let length = body.len();
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    /// A chat; `headers` are header lines, each with its line end.
    pub async fn chat_with(&mut self, headers: &str, more: &str) {
        let (body, post) = (chat(more), "POST /v1/chat/completions HTTP/1.1");
        self.send(&format!(
            "{post}\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    }

    pub async fn chat(&mut self, more: &str) {
        self.post("/v1/chat/completions", &chat(more)).await;
    }

    /// Reads more; `false`: the other end has closed, properly or not.
    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.bytes)).await;
        matches!(read.expect("no answer"), Ok(1..))
    }

    /// Everything received so far, once `wanted` is in it.
    pub async fn until(&mut self, wanted: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.bytes).into_owned();
            if text.contains(wanted) {
                return text;
            }
            assert!(self.more().await, "the connection ended before {wanted:?}: {text}");
        }
    }

    /// Whether the other end closes, with nothing left to read.
    pub async fn closed(&mut self) -> bool {
        self.bytes.is_empty() && !self.more().await
    }

    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("the connection ended before the answer did")
    }

    /// The next answer; `None`: the connection ended first.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") {
                break end + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8(self.bytes.drain(..end).collect()).unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        if status == 204 || status < 200 {
            return Some(answer);
        }
        if let Some(length) = answer.header("content-length").map(|digits| digits.parse::<usize>().unwrap()) {
            answer.body = self.exactly(length).await?;
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(&line, 16).unwrap();
                answer.body.extend(self.exactly(size).await?);
                assert_eq!(self.line().await?, "");
                if size == 0 {
                    break;
                }
            }
        } else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.bytes);
        }
        Some(answer)
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.bytes.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.bytes.drain(..count).collect())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n") {
                let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }
}
