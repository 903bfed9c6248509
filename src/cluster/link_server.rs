//! The link of a group: to the supervisor a conductor looks like a launcher (`docs/architecture.md`, "The link"), and
//! tells of its ranks beside.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::inputs::ConductorInput as Input;
use crate::api::RankStatus;
use crate::backend::link::Request;

/// The longest line that a client may send.
const LONGEST_LINE: u64 = 64 * 1024;

/// What a conductor knows, as clients are told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub generation: u64,
    /// Where rank 0 listens.
    pub port: Option<u16>,
    pub ranks: Vec<RankStatus>,
    /// The least CPU time that a rank has used, milliseconds.
    pub cpu_ms: Option<u64>,
    /// Which rank was lost, once one was: the group is being taken down.
    pub lost: Option<String>,
}

impl Seen {
    /// Nothing yet.
    pub(super) fn new(generation: u64) -> Self {
        Self { generation, port: None, ranks: Vec::new(), cpu_ms: None, lost: None }
    }

    fn hello(&self) -> Value {
        json!({"event": "hello", "protocol": 1, "generation": self.generation, "pid": std::process::id(),
            "port": self.port, "thread": "alive", "error": null})
    }

    fn lost(&self) -> Option<Value> {
        self.lost.as_ref().map(|error| json!({"event": "group_lost", "error": error}))
    }

    fn ranks(&self) -> Value {
        json!({"event": "ranks", "ranks": self.ranks, "cpu_ms": self.cpu_ms})
    }
}

/// Serves the link at `path` from now on; what clients ask for goes to `asked`.
///
/// # Errors
/// The system's, if the socket cannot be made.
pub(super) fn serve(
    path: &Path,
    seen: watch::Receiver<Seen>,
    asked: UnboundedSender<Input>,
) -> io::Result<()> {
    crate::api::paths::make_folder(path)?;
    crate::backend::record::remove(path)?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    tokio::spawn(attend(client, seen.clone(), asked.clone()));
                }
                // Out of descriptors, most likely: the next connection may find one.
                Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
            }
        }
    });
    Ok(())
}

/// Ends with the client; a failed write to it does not affect the group.
async fn attend(client: UnixStream, mut seen: watch::Receiver<Seen>, asked: UnboundedSender<Input>) {
    let (reader, mut writer) = client.into_split();
    let mut reader = BufReader::new(reader.take(LONGEST_LINE));
    let mut told = seen.borrow_and_update().clone();
    let welcome: Vec<_> = [told.hello(), told.ranks()].into_iter().chain(told.lost()).collect();
    if send(&mut writer, &welcome).await.is_err() {
        return;
    }
    let mut line = Vec::new();
    loop {
        tokio::select! {
            read = reader.read_until(b'\n', &mut line) => {
                if !matches!(read, Ok(1..)) || !line.ends_with(b"\n") {
                    return;
                }
                reader.get_mut().set_limit(LONGEST_LINE);
                let reply = answer(&line, &asked);
                line.clear();
                if send(&mut writer, &[reply]).await.is_err() {
                    return;
                }
            }
            changed = seen.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = seen.borrow_and_update().clone();
                let news = news(&told, &now);
                told = now;
                if send(&mut writer, &news).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn news(told: &Seen, now: &Seen) -> Vec<Value> {
    let mut news = Vec::new();
    if let Some(port) = now.port.filter(|port| told.port != Some(*port)) {
        news.push(json!({"event": "listening", "port": port}));
    }
    if told.ranks != now.ranks || told.cpu_ms != now.cpu_ms {
        news.push(now.ranks());
    }
    if told.lost != now.lost {
        news.extend(now.lost());
    }
    news
}

fn answer(line: &[u8], asked: &UnboundedSender<Input>) -> Value {
    let reply = match serde_json::from_slice(line) {
        // MLX's own count is each rank's; what their hosts charge them is in `ranks`.
        Ok(Request::Memory) => return json!({"reply": "memory", "active": null, "cache": null, "peak": null}),
        // Kept prompts stay: the ranks hold the same ones, and give them up in step or not at all.
        Ok(Request::Release) => (Request::Trim, json!({"reply": "release", "freed": null})),
        Ok(Request::Forget) => (Request::Trim, json!({"reply": "forget", "freed": null})),
        Ok(Request::Trim) => (Request::Trim, json!({"reply": "trim", "freed": null})),
        // Its ranks work in step, each on a machine of its own: only one of those has the program that is yielded to.
        Ok(Request::Pace { .. }) => return json!({"reply": "pace"}),
        Ok(Request::ReopenLog) => (Request::ReopenLog, json!({"reply": "reopen_log"})),
        Err(error) => return json!({"reply": "error", "error": error.to_string()}),
    };
    // The conductor is ending: nothing is left to ask.
    let _ = asked.send(Input::Asked(reply.0));
    reply.1
}

async fn send(writer: &mut (impl tokio::io::AsyncWrite + Unpin), messages: &[Value]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for message in messages {
        serde_json::to_writer(&mut bytes, message)?;
        bytes.push(b'\n');
    }
    writer.write_all(&bytes).await
}
