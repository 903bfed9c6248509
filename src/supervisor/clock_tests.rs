//! Deadlines, and a machine that sleeps, with the clock under the test's control.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Handle, Options, Supervisor};
use crate::api::StateName;
use crate::backend::record;
use crate::backend::spec::{Record, SCHEMA, Spec};
use crate::host::fake::Fake;
use crate::host::{Host, Identity};
use crate::registry::Registry;
use crate::units::Bytes;

/// A supervisor that has adopted a backend.
pub(super) struct Adopted {
    pub folder: tempfile::TempDir,
    pub host: Arc<Fake>,
    pub backend: Identity,
    pub handle: Handle,
    /// Port of the gate on 127.0.0.1.
    pub port: u16,
    /// The registry's text.
    pub text: String,
}

impl Adopted {
    /// `memory`: lines of `[memory]`; `model`: lines of the model. Of the backend there is only its record.
    pub(super) fn new(memory: &str, model: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        let run = root.join("run");
        std::fs::create_dir(&run).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let start = if model.contains("start = ") { "" } else { "start = \"manual\"\n" };
        let text = format!(
            "[paths]\nroot = {root:?}\n[network]\nhost = \"127.0.0.1\"\n[memory]\nreserve = []\n{memory}\n[[model]]\n\
             name = \"m\"\nrepo = \"/nonexistent\"\nport = {port}\n{start}size = \"1GB\"\n{model}\n"
        );
        let registry = Registry::parse(&root.join("models.toml"), &text).unwrap();
        let host = Fake::new(Bytes::gb(128));
        let backend = host.spawn(4711, "python");
        let spec = Spec {
            schema: SCHEMA,
            model: "m".into(),
            repo: String::new(),
            generation: 3,
            argv: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::new(),
            log: root.join("logs/m.log"),
            link: run.join("m.sock"),
            secret: "s".into(),
            cache_limit: None,
            prompt_cache_bytes: None,
            room: None,
            wired: crate::registry::Wired::Off,
            context: None,
            prompt_store: None,
            settings: String::new(),
            reserved: 1_000_000_000,
            nice: 0,
            group: None,
        };
        let boot_id = host.facts().boot_id.clone();
        let spawned = Some(host.now());
        let record = Record { spec, identity: backend, boot_id, spawned_at: 0, spawned };
        record::write_record(&run, &record).unwrap();
        let options = Options { registry, host: host.clone(), binary: "/nonexistent".into() };
        let supervisor = Supervisor::new(options).unwrap();
        let handle = supervisor.handle();
        tokio::spawn(supervisor.run());
        Self { folder, host, backend, handle, port, text }
    }
}

impl Adopted {
    /// Posts a request to the gate and leaves the answer to be read. The gate closes the connection after it.
    pub(super) async fn post(&self, path: &str, body: &str) -> TcpStream {
        let mut client = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let head = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json";
        let request =
            format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// Posts a chat and waits until it is in flight.
    pub(super) async fn begin_chat(&self) -> TcpStream {
        let client =
            self.post("/v1/chat/completions", r#"{"messages":[{"role":"user","content":"x"}]}"#).await;
        while self.handle.model("m").await.unwrap().traffic.in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client
    }
}

/// A backend whose launcher never says anything, with 600 s to load.
fn loading() -> Adopted {
    Adopted::new("", "health = { load_timeout = \"10m\" }")
}

/// The texts of all events of one kind.
pub(super) async fn events(handle: &Handle, kind: &str) -> Vec<String> {
    let events = handle.events(None, 1000).await;
    events.into_iter().filter(|event| event.kind == kind).map(|event| event.text).collect()
}

async fn state(handle: &Handle) -> StateName {
    handle.model("m").await.unwrap().state
}

#[tokio::test(start_paused = true)]
async fn a_load_interrupted_by_sleep_gets_exactly_that_time_back() {
    let Adopted { folder: _folder, host, handle, .. } = loading();
    assert_eq!(state(&handle).await, StateName::Loading);
    tokio::time::sleep(Duration::from_secs(300)).await;
    host.sleep(Duration::from_secs(8 * 3600));
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(state(&handle).await, StateName::Loading, "590 of its 600 s awake");
    // The fake process ends when it is signalled.
    tokio::time::sleep(Duration::from_secs(45)).await;
    let model = handle.model("m").await.unwrap();
    assert_ne!(model.state, StateName::Loading);
    assert!(model.reason.unwrap().contains("no token within 10m"), "the load timeout passed");
}

#[tokio::test(start_paused = true)]
async fn uptime_counts_the_sleep_and_needs_no_wall_clock() {
    let Adopted { folder: _folder, host, handle, .. } = loading();
    host.sleep(Duration::from_secs(3600));
    tokio::time::sleep(Duration::from_secs(60)).await;
    // By the record's wall clock it was spawned at the beginning of 1970.
    let uptime = handle.model("m").await.unwrap().uptime_seconds.unwrap();
    assert!((3660.0..3670.0).contains(&uptime), "{uptime}");
}
