//! Deadlines and a machine that sleeps, on a machine of which the test decides the time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// Of the gate.
    pub port: u16,
    /// The registry.
    pub text: String,
}

impl Adopted {
    /// `memory`: lines of `[memory]`; `model`: of the model. Nothing of the backend is there but its record.
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

/// One that never says a word, with 600 s to load.
fn loading() -> Adopted {
    Adopted::new("", "health = { load_timeout = \"10m\" }")
}

async fn state(handle: &Handle) -> StateName {
    handle.model("m").await.unwrap().state
}

#[tokio::test(start_paused = true)]
async fn a_load_that_a_sleep_interrupted_gets_its_time_back_and_not_more() {
    let Adopted { folder: _folder, host, handle, .. } = loading();
    assert_eq!(state(&handle).await, StateName::Loading);
    tokio::time::sleep(Duration::from_secs(300)).await;
    host.sleep(Duration::from_secs(8 * 3600));
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(state(&handle).await, StateName::Loading, "590 of its 600 s awake");
    // The fake's process ends when it is told to.
    tokio::time::sleep(Duration::from_secs(45)).await;
    let model = handle.model("m").await.unwrap();
    assert_ne!(model.state, StateName::Loading);
    assert!(model.reason.unwrap().contains("no token within 10m"), "the load time was over");
}

#[tokio::test(start_paused = true)]
async fn uptime_counts_the_sleep_and_needs_no_wall_clock() {
    let Adopted { folder: _folder, host, handle, .. } = loading();
    host.sleep(Duration::from_secs(3600));
    tokio::time::sleep(Duration::from_secs(60)).await;
    // The record says that it was spawned at the beginning of 1970, by the wall clock.
    let uptime = handle.model("m").await.unwrap().uptime_seconds.unwrap();
    assert!((3660.0..3670.0).contains(&uptime), "{uptime}");
}
