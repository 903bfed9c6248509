//! When kept prompts are dropped and when not, with the clock under the test's control.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::clock_tests::Adopted;
use crate::api::{StateName, StopRequest};
use crate::host::{MemoryReading, Pressure, Signal};
use crate::units::Bytes;

/// Longer than the interval of health checks, with which memory is checked as well.
const LOOK: Duration = Duration::from_secs(11);

/// Requests to a launcher, in order.
pub(super) type Asked = Arc<Mutex<Vec<String>>>;

/// A fake launcher and server, as far as the supervisor sees them. Chat requests are never answered.
async fn launcher(run: &Path, adopted: &Adopted) -> Asked {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    adopted.host.set_listener(port, Some(adopted.backend.pid));
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    let link = UnixListener::bind(run.join("m.sock")).unwrap();
    let asked = Asked::default();
    let heard = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = link.accept().await {
            tokio::spawn(speak(stream, port, heard.clone()));
        }
    });
    asked
}

async fn answer(mut stream: TcpStream) {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await.unwrap_or_default();
    if request[..length].windows(4).any(|part| part == b"chat") {
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
}

async fn speak(stream: UnixStream, port: u16, asked: Asked) {
    let (reader, mut writer) = stream.into_split();
    let hello = format!(
        "{{\"event\":\"hello\",\"protocol\":1,\"generation\":3,\"pid\":4711,\"port\":{port},\"thread\":\"alive\",\"error\":null}}\n"
    );
    let _ = writer.write_all(hello.as_bytes()).await;
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let op = line["op"].as_str().unwrap().to_owned();
        let _ = writer.write_all(format!("{{\"reply\":{op:?},\"freed\":1}}\n").as_bytes()).await;
        // Reopening the log does not matter here.
        if op == "pace" {
            asked.lock().unwrap().push(format!("pace {}", line["percent"]));
        } else if op != "reopen_log" {
            asked.lock().unwrap().push(op);
        }
    }
}

/// A supervisor whose model is ready; `model`: lines of its entry.
pub(super) async fn ready_with(model: &str) -> Adopted {
    until_ready("", model).await.0
}

pub(super) async fn ready(memory: &str) -> (Adopted, Asked) {
    until_ready(memory, "").await
}

async fn until_ready(memory: &str, model: &str) -> (Adopted, Asked) {
    let adopted = Adopted::new(memory, model);
    let asked = launcher(&adopted.folder.path().join("run"), &adopted).await;
    while adopted.handle.model("m").await.unwrap().state != StateName::Ready {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (adopted, asked)
}

/// Requests without those about the pace.
fn ops(asked: &Asked) -> Vec<String> {
    asked.lock().unwrap().iter().filter(|op| !op.starts_with("pace")).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_pause_empties_the_buffer_cache_and_half_an_hour_without_requests_drops_prompts() {
    let (_adopted, asked) = ready("").await;
    tokio::time::sleep(Duration::from_secs(44)).await;
    assert_eq!(ops(&asked), [""; 0]);
    tokio::time::sleep(LOOK).await;
    assert_eq!(ops(&asked), ["trim"], "after 45 s");
    tokio::time::sleep(Duration::from_secs(30 * 60 - 57)).await;
    assert_eq!(ops(&asked), ["trim"], "a pause of 29 minutes costs nothing");
    tokio::time::sleep(LOOK).await;
    assert_eq!(ops(&asked), ["trim", "release"]);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(ops(&asked), ["trim", "release"], "once");
}

#[tokio::test(start_paused = true)]
async fn memory_pressure_drops_prompts_at_once() {
    let (adopted, asked) = ready("").await;
    let reading = MemoryReading { available: Some(Bytes::gb(64)), ..MemoryReading::default() };
    adopted.host.set_memory(MemoryReading { pressure: Pressure::Warning, ..reading });
    tokio::time::sleep(LOOK).await;
    assert_eq!(ops(&asked), ["release"]);
    adopted.host.set_memory(MemoryReading { pressure: Pressure::Critical, ..reading });
    tokio::time::sleep(LOOK).await;
    assert_eq!(ops(&asked), ["release", "release"]);
}

#[tokio::test(start_paused = true)]
async fn the_start_of_a_game_drops_prompts() {
    let (adopted, asked) = ready("yield = [\"Civ5XP\"]").await;
    tokio::time::sleep(LOOK).await;
    assert_eq!(ops(&asked), [""; 0]);
    adopted.host.set_running(&["Civ5XP"]);
    tokio::time::sleep(LOOK).await;
    assert_eq!(ops(&asked), ["release"]);
}

#[tokio::test(start_paused = true)]
async fn a_trim_keeps_prompts_on_disk_and_a_forget_deletes_them() {
    let (adopted, asked) = ready("").await;
    adopted.handle.trim("m").await.unwrap();
    assert_eq!(ops(&asked), ["release"]);
    let prompts = crate::backend::launcher::prompts(&adopted.folder.path().join("state"), "m");
    std::fs::create_dir_all(&prompts).unwrap();
    std::fs::write(prompts.join("x.tokens"), [0; 10]).unwrap();
    assert!(adopted.handle.forget("m").await.unwrap().changed);
    assert_eq!(ops(&asked), ["release", "forget"]);
    assert_eq!(std::fs::read_dir(prompts).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn during_a_request_a_trim_only_empties_the_buffer_cache() {
    let (adopted, asked) = ready("").await;
    let _client = adopted.begin_chat().await;
    adopted.handle.trim("m").await.unwrap();
    assert_eq!(ops(&asked), ["trim"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_storing_prompts_to_the_backend() {
    let (adopted, asked) = ready("").await;
    adopted.handle.stop("m", StopRequest::default()).await.unwrap();
    assert_eq!(ops(&asked), [""; 0]);
    assert_eq!(adopted.host.signals(), [(adopted.backend, Signal::Term)]);
}
