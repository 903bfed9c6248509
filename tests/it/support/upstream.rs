//! A stand-in for one backend that behaves on the wire like `mlx_lm.server`: HTTP/1.0, one connection per request, the
//! end of a stream is the end of the connection. The test decides what it answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlxctl::internals::gate::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// One thing that the backend does for a request.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Waits until the test lets it continue ([`Backend::go_on`]).
    Wait,
    /// As `Wait`, but without noticing that its client leaves, like the server while it computes a plain answer.
    Compute,
    /// Waits until its client has hung up.
    HungUp,
    /// Waits for a moment.
    Pause(Duration),
    /// Resets the connection, as a killed process does.
    Reset,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub head: String,
    pub body: Vec<u8>,
}

type Script = dyn Fn(usize, &Received) -> Vec<Step> + Send + Sync;

struct State {
    script: Box<Script>,
    received: Mutex<Vec<Received>>,
    permits: Semaphore,
    open: watch::Sender<usize>,
    hung_up: watch::Sender<usize>,
}

/// A backend that listens until it is killed or dropped.
pub struct Backend {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Backend {
    /// `script` gets the number of the request, from 0, and the request.
    pub async fn start(script: impl Fn(usize, &Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Box::new(script),
            received: Mutex::default(),
            permits: Semaphore::new(0),
            open: watch::Sender::new(0),
            hung_up: watch::Sender::new(0),
        });
        let task = tokio::spawn(serve(listener, state.clone()));
        Self { address, state, task }
    }

    /// What the gate needs; the test chooses `generation`.
    pub fn upstream(&self, generation: u64) -> Upstream {
        Upstream { address: self.address, secret: "s3cret".into(), generation }
    }

    /// Lets one waiting step continue.
    pub fn go_on(&self) {
        self.state.permits.add_permits(1);
    }

    /// All requests that arrived so far.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Resolves when `count` connections are open.
    pub async fn open(&self, count: usize) {
        self.state.open.subscribe().wait_for(|open| *open == count).await.unwrap();
    }

    /// Resolves when `count` clients have hung up.
    pub async fn hung_up(&self, count: usize) {
        self.state.hung_up.subscribe().wait_for(|seen| *seen == count).await.unwrap();
    }

    /// Like `kill -9`: every connection is reset, and nothing listens any more.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(answer(stream, state.clone()));
    }
}

struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

async fn answer(mut stream: TcpStream, state: Arc<State>) {
    state.open.send_modify(|open| *open += 1);
    let _open = Open(state.clone());
    // An aborted task drops its socket; without this the kernel would close the connection properly.
    stream.set_zero_linger().unwrap();
    let Some(request) = read(&mut stream).await else { return };
    let number = {
        let mut received = state.received.lock().unwrap();
        received.push(request.clone());
        received.len() - 1
    };
    for step in (state.script)(number, &request) {
        let gone = match step {
            Step::Send(bytes) => stream.write_all(&bytes).await.is_err(),
            Step::Wait => tokio::select! {
                permit = state.permits.acquire() => { permit.unwrap().forget(); false }
                _ = stream.read_u8() => true,
            },
            Step::Compute => {
                state.permits.acquire().await.unwrap().forget();
                false
            }
            Step::HungUp => {
                let _ = stream.read_u8().await;
                state.hung_up.send_modify(|count| *count += 1);
                false
            }
            Step::Pause(time) => {
                tokio::time::sleep(time).await;
                false
            }
            Step::Reset => return,
        };
        if gone {
            return;
        }
    }
    let _ = stream.shutdown().await;
    // Without a reset, so that readers get everything.
    let _ = stream.read_u8().await;
}

async fn read(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end + 4].to_vec()).unwrap();
            let length = head.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            let length: usize = length.parse().unwrap();
            if bytes.len() == end + 4 + length {
                return Some(Received { head, body: bytes[end + 4..].to_vec() });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// The head of a stream, as the server writes it.
pub fn stream_head() -> Step {
    Step::Send(
        b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6 Python/3.11.7\r\nDate: Mon, 01 Jan 2026 00:00:00 GMT\r\n\
          Content-type: text/event-stream\r\nCache-Control: no-cache\r\nAccess-Control-Allow-Origin: *\r\n\
          Access-Control-Allow-Methods: *\r\nAccess-Control-Allow-Headers: *\r\n\r\n"
            .to_vec(),
    )
}

/// One event of a stream, with some text.
pub fn event(text: &str) -> Step {
    Step::Send(
        format!("data: {{\"choices\": [{{\"delta\": {{\"content\": \"{text}\"}}}}]}}\n\n").into_bytes(),
    )
}

/// The keep-alive that the server sends while it processes a prompt.
pub fn comment(done: u32, total: u32) -> Step {
    Step::Send(format!(": keepalive {done}/{total}\n\n").into_bytes())
}

/// The event that ends a stream.
pub fn done() -> Step {
    Step::Send(b"data: [DONE]\n\n".to_vec())
}

/// A complete stream of these words.
pub fn stream(words: &[&str]) -> Vec<Step> {
    let mut steps = vec![stream_head()];
    steps.extend(words.iter().map(|word| event(word)));
    steps.push(done());
    steps
}

/// A complete answer without a stream: head and body are two writes, as the server does it.
pub fn json(status: &str, body: &str, length: bool) -> Vec<Step> {
    let length = if length { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    let head = format!(
        "HTTP/1.0 {status}\r\nServer: BaseHTTP/0.6 Python/3.11.7\r\nContent-type: application/json\r\n{length}\r\n"
    );
    vec![Step::Send(head.into_bytes()), Step::Send(body.as_bytes().to_vec())]
}

/// The answer to a request without `stream`.
pub fn answer_of(tokens: u32) -> Vec<Step> {
    let body = format!(
        "{{\"choices\": [{{\"message\": {{\"content\": \"x\"}}}}], \"usage\": {{\"completion_tokens\": {tokens}}}}}"
    );
    json("200 OK", &body, true)
}
