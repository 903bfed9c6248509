//! The client of the supervisor's API: blocking, one request per connection, no async runtime.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{http, paths};
use crate::api::{
    ApiError, CommandDone, EventRecord, Events, HandedOver, HandoverRequest, Line, Progress, ReloadRequest,
    Reloaded, SCHEMA, SCHEMA_HEADER, StartRequest, Status, StopRequest,
};
use crate::{host, terminal};

/// How long a running supervisor may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a backend may take to release its kept prompts: it writes gigabytes to disk and completes a token. Its
/// launcher gives up after 120 s.
pub(crate) const GIVING_UP: Duration = Duration::from_secs(150);
/// Longest document that is read, bytes.
const DOCUMENT_MAX: u64 = 64 << 20;
/// Longest line of a stream, bytes.
const LINE_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket: no supervisor was started, or it ended or was killed.
    #[error("no supervisor is running")]
    NotRunning { socket: PathBuf },
    /// The socket or its listener belongs to another user.
    #[error("{} belongs to another user, whose supervisor does not answer you", socket.display())]
    Denied { socket: PathBuf },
    /// It accepted the connection and did not answer in time.
    #[error("the supervisor does not answer")]
    Silent,
    /// Client and supervisor have incompatible versions.
    #[error("the supervisor speaks version {theirs} of the API, this mlxctl version {SCHEMA}")]
    Schema {
        /// The supervisor's version, or `none` if its answer has none.
        theirs: String,
    },
    #[error("{}", .0.message)]
    Api(ApiError),
    /// The connection ended before the answer was complete.
    #[error("the supervisor ended while answering")]
    Cut,
    /// The answer does not follow the API, or a system call failed.
    #[error("cannot talk to the supervisor: {0}")]
    Io(#[source] io::Error),
}

type Result<T> = std::result::Result<T, ClientError>;

/// A client of the supervisor whose sockets are in one `run` folder.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    /// uid of the user whose supervisor must be listening.
    owner: u32,
    patience: Duration,
}

impl Client {
    /// For the supervisor with this `run` folder. Opens nothing yet.
    pub fn new(run: &Path) -> Self {
        Self { socket: paths::socket_path(run), owner: paths::owner(run), patience: PATIENCE }
    }

    /// Sets how long to wait for an answer that should come at once; 10 s by default.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn status(&self) -> Result<Status> {
        self.document("GET", "/v1/status", None::<&()>)
    }

    /// The first `limit` events after `after`, or the newest ones.
    pub fn events(&self, after: Option<u64>, limit: usize) -> Result<Events> {
        let after = after.map_or_else(String::new, |seq| format!("after={seq}&"));
        self.document("GET", &format!("/v1/events?{after}limit={limit}"), None::<&()>)
    }

    /// Calls `each` for every event after `after` while the supervisor runs.
    ///
    /// # Errors
    /// Any [`ClientError`]; [`ClientError::Cut`] once the supervisor is gone; the first error of `each`.
    pub fn follow<E: From<ClientError>>(
        &self,
        after: u64,
        mut each: impl FnMut(EventRecord) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let body = self.ask("GET", &format!("/v1/events/follow?after={after}"), None::<&()>, None)?;
        let mut lines = Lines(BufReader::new(body));
        while let Some(event) = lines.next()? {
            each(event)?;
        }
        Err(ClientError::Cut.into())
    }

    pub fn start(
        &self,
        model: &str,
        request: &StartRequest,
        progress: impl FnMut(&Progress),
    ) -> Result<CommandDone> {
        // It answers within the requested timeout; without one, a load may take minutes in silence.
        let given = request.timeout_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let silence = given.map(|given| given.saturating_add(self.patience));
        self.command(model, "start", request, silence, progress)
    }

    pub fn stop(
        &self,
        model: &str,
        request: &StopRequest,
        progress: impl FnMut(&Progress),
    ) -> Result<CommandDone> {
        self.command(model, "stop", request, None, progress)
    }

    pub fn restart(
        &self,
        model: &str,
        request: &StopRequest,
        progress: impl FnMut(&Progress),
    ) -> Result<CommandDone> {
        self.command(model, "restart", request, None, progress)
    }

    /// May take up to [`GIVING_UP`], because kept prompts are written to disk first.
    pub fn trim(&self, model: &str) -> Result<CommandDone> {
        self.give_up(model, "trim")
    }

    pub fn forget(&self, model: &str) -> Result<CommandDone> {
        self.give_up(model, "forget")
    }

    fn give_up(&self, model: &str, verb: &str) -> Result<CommandDone> {
        let patience = self.patience.saturating_add(GIVING_UP);
        self.clone().with_patience(patience).document("POST", &model_target(model, verb), None::<&()>)
    }

    pub fn reload(&self, dry_run: bool) -> Result<Reloaded> {
        self.document("POST", "/v1/reload", Some(&ReloadRequest { dry_run }))
    }

    /// The supervisor ends, and its backends stay for the next one to adopt.
    pub fn handover(&self) -> Result<()> {
        self.ask("POST", "/v1/handover", None::<&()>, Some(self.patience)).map(drop)
    }

    /// Like [`handover`](Self::handover), but it answers once nothing is in flight, after at most `drain`, and then
    /// stays for `time` or until SIGTERM. `false` if it does not stay: an older supervisor leaves at once.
    pub fn hand_over_and_hold(&self, drain: Duration, time: Duration) -> Result<bool> {
        let request = HandoverRequest { hold_seconds: Some(time.as_secs_f64()) };
        let patience = drain.saturating_add(self.patience);
        let body = self.ask("POST", "/v1/handover", Some(&request), Some(patience))?;
        // A truncated answer comes from one that has left.
        let answer = serde_json::from_reader::<_, HandedOver>(body).unwrap_or_default();
        Ok(answer.holds)
    }

    /// Sends a command whose answer is a stream. `silence` is the longest wait for its next line, `None` for no limit.
    fn command(
        &self,
        model: &str,
        verb: &str,
        request: &impl Serialize,
        silence: Option<Duration>,
        mut progress: impl FnMut(&Progress),
    ) -> Result<CommandDone> {
        let body = self.ask("POST", &model_target(model, verb), Some(request), silence)?;
        let mut lines = Lines(BufReader::new(body));
        while let Some(line) = lines.next()? {
            match line {
                Line::Progress(now) => progress(&now),
                Line::Done(done) => return Ok(done),
                Line::Error(error) => return Err(ClientError::Api(error)),
            }
        }
        Err(ClientError::Cut)
    }

    fn document<T: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let answer = self.ask(method, target, body, Some(self.patience))?;
        decode(&read_all(answer)?)
    }

    /// Sends a request and reads the head of its answer. `silence` is the longest wait for the next byte.
    fn ask(
        &self,
        method: &str,
        target: &str,
        body: Option<&impl Serialize>,
        silence: Option<Duration>,
    ) -> Result<http::Body<UnixStream>> {
        let mut stream = self.connect()?;
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| ClientError::Io(error.into()))?;
        stream.set_read_timeout(silence).map_err(ClientError::Io)?;
        let sent = http::request(&mut stream, method, target, body.as_deref());
        // A server may refuse a request before all of it was sent.
        let response = match (http::response(stream, SCHEMA_HEADER), sent) {
            (Ok(response), _) => response,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(lost(error)),
        };
        if response.header.as_deref().and_then(|text| text.parse().ok()) != Some(SCHEMA) {
            return Err(ClientError::Schema { theirs: response.header.unwrap_or_else(|| "none".to_owned()) });
        }
        if (200..300).contains(&response.status) {
            return Ok(response.body);
        }
        let bytes = read_all(response.body)?;
        Err(ClientError::Api(terminal::decode(&bytes).map_err(|_| {
            let text = String::from_utf8_lossy(&bytes);
            let text = terminal::shown(text.trim());
            ClientError::Io(io::Error::other(format!("HTTP {}: {text}", response.status)))
        })?))
    }

    fn connect(&self) -> Result<UnixStream> {
        let connected = (|| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // Also bounds connect(), which blocks while the backlog of a hung supervisor is full (unix(7)).
            socket.set_write_timeout(Some(self.patience))?;
            socket.connect(&SockAddr::unix(&self.socket)?)?;
            let stream = UnixStream::from(OwnedFd::from(socket));
            // Anyone who can write to the folder can put a socket there.
            host::posix::peer_is(self.owner, &stream)?;
            Ok(stream)
        })();
        connected.map_err(|error: io::Error| {
            let socket = self.socket.clone();
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning { socket }
                }
                io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
                _ => lost(error),
            }
        })
    }
}

/// A stream of JSON documents, one per line.
struct Lines<R>(R);

impl<R: BufRead> Lines<R> {
    fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.0.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(lost)?;
            if read == 0 {
                return Ok(None);
            }
            if !line.ends_with(b"\n") {
                return Err(ClientError::Cut);
            }
            // Blank lines only show that the supervisor is alive.
            if !line.trim_ascii().is_empty() {
                return decode(&line).map(Some);
            }
        }
    }
}

fn read_all(body: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    body.take(DOCUMENT_MAX).read_to_end(&mut bytes).map_err(lost)?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    terminal::decode(bytes).map_err(|error| ClientError::Io(error.into()))
}

fn lost(error: io::Error) -> ClientError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
    match error.kind() {
        WouldBlock | TimedOut => ClientError::Silent,
        UnexpectedEof | ConnectionReset | BrokenPipe => ClientError::Cut,
        _ => ClientError::Io(error),
    }
}

/// `/v1/models/{model}/{verb}`, percent-encoded (RFC 3986, section 2.3).
fn model_target(model: &str, verb: &str) -> String {
    let mut name = String::new();
    for byte in model.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("/v1/models/{name}/{verb}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(model_target("qwen2.5-72b", "stop"), "/v1/models/qwen2.5-72b/stop");
        assert_eq!(model_target("a/../b?x y\r\n", "stop"), "/v1/models/a%2F..%2Fb%3Fx%20y%0D%0A/stop");
    }

    #[test]
    fn a_socket_file_without_a_listener_means_not_running() {
        let run = tempfile::tempdir().unwrap();
        let client = Client::new(run.path());
        assert!(matches!(client.status(), Err(ClientError::NotRunning { .. })));
        drop(std::os::unix::net::UnixListener::bind(client.socket()).unwrap());
        assert!(client.socket().exists());
        assert!(matches!(client.status(), Err(ClientError::NotRunning { .. })));
    }

    #[test]
    fn a_supervisor_that_hangs_is_not_waited_for_without_end() {
        let run = tempfile::tempdir().unwrap();
        let client = Client::new(run.path()).with_patience(Duration::from_millis(20));
        let _listener = std::os::unix::net::UnixListener::bind(client.socket()).unwrap();
        assert!(matches!(client.status(), Err(ClientError::Silent)));
        let request = StartRequest { timeout_seconds: Some(0.01), ..StartRequest::default() };
        assert!(matches!(client.start("32b", &request, |_| ()), Err(ClientError::Silent)));
    }
}
