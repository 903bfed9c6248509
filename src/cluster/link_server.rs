//! The link of a group: to the supervisor a conductor looks like a launcher (`docs/architecture.md`, "The link") that
//! also reports its ranks.

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

/// Longest line from a client, bytes.
const LONGEST_LINE: u64 = 64 * 1024;

/// The state that a conductor reports to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub generation: u64,
    /// Where rank 0's server listens, once it does.
    pub port: Option<u16>,
    pub ranks: Vec<RankStatus>,
    /// CPU time of the slowest rank, milliseconds.
    pub cpu_ms: Option<u64>,
    /// Which rank was lost; set once the group is being taken down.
    pub lost: Option<String>,
}

impl Seen {
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

/// Serves the link at `path`; requests from clients go to `asked`.
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
                // Most likely out of descriptors; one may be free later.
                Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
            }
        }
    });
    Ok(())
}

/// Serves one client. A failed write ends only this connection.
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
        // Every rank has its own count. `ranks` has what their hosts charge.
        Ok(Request::Memory) => return json!({"reply": "memory", "active": null, "cache": null, "peak": null}),
        // Kept prompts stay: the ranks would have to drop the same ones in step.
        Ok(Request::Release) => (Request::Trim, json!({"reply": "release", "freed": null})),
        Ok(Request::Forget) => (Request::Trim, json!({"reply": "forget", "freed": null})),
        Ok(Request::Trim) => (Request::Trim, json!({"reply": "trim", "freed": null})),
        // Ignored: ranks work in step, but only one of their machines runs the program that models yield to.
        Ok(Request::Pace { .. }) => return json!({"reply": "pace"}),
        Ok(Request::ReopenLog) => (Request::ReopenLog, json!({"reply": "reopen_log"})),
        Err(error) => return json!({"reply": "error", "error": error.to_string()}),
    };
    // Fails only while the conductor is ending.
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
