//! How a supervisor handles what only a Mac does, on a fake machine: the environment is real, no process is started.

use std::sync::Arc;
use std::time::Duration;

use mlxctl::internals::api::{ApiError, CommandDone, ErrorCode, StartRequest};
use mlxctl::internals::host::MemoryReading;
use mlxctl::internals::host::fake::Fake;
use mlxctl::internals::registry::Registry;
use mlxctl::internals::supervisor::{Handle, Options, Supervisor};
use mlxctl::internals::units::Bytes;

use crate::real;

/// A supervisor with one manual model, `m`, whose processes cannot be spawned.
fn supervisor(folder: &std::path::Path, host: &Arc<Fake>) -> Handle {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let python = real::python();
    let text = format!(
        "[paths]\nroot = {folder:?}\nvenv = {:?}\n[network]\nhost = \"127.0.0.1\"\n[memory]\nreserve = []\n\
         [[model]]\nname = \"m\"\nrepo = {:?}\nport = {port}\nstart = \"manual\"\n",
        python.ancestors().nth(2).unwrap(),
        real::tiny_model()
    );
    let registry = Registry::parse(&folder.join("models.toml"), &text).unwrap();
    let options = Options { registry, host: host.clone(), binary: "/nonexistent".into() };
    let supervisor = Supervisor::new(options).unwrap();
    let handle = supervisor.handle();
    tokio::spawn(supervisor.run());
    handle
}

async fn start(handle: &Handle, force: bool) -> Result<CommandDone, ApiError> {
    handle.start("m", StartRequest { force, ..StartRequest::default() }).await
}

async fn events(handle: &Handle, kind: &str) -> Vec<String> {
    let events = handle.events(None, 100).await;
    events.into_iter().filter(|event| event.kind == kind).map(|event| event.text).collect()
}

/// Admission let it through: what failed is the process.
fn admitted(outcome: Result<CommandDone, ApiError>) {
    let model = outcome.unwrap().model;
    assert!(model.reason.as_deref().is_some_and(|why| why.contains("cannot make a process")), "{model:?}");
}

#[tokio::test]
async fn after_a_kernel_panic_manual_models_wait_for_force_and_then_no_longer() {
    let (folder, reports) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(reports.path().join("panic-full-2026-11-26-101112.0002.panic"), "").unwrap();
    let host = Fake::new(Bytes::gb(128));
    host.set_panic_reports(reports.path());
    let handle = supervisor(folder.path(), &host);
    let refused = start(&handle, false).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Refused);
    assert!(refused.message.contains("kernel panic (panic-full-2026-11-26"), "{refused:?}");
    assert!(refused.hint.unwrap().contains("mlxctl start m --force"));
    let noted = events(&handle, "kernel_panic").await;
    assert!(noted.len() == 1 && noted[0].contains("panic-full-2026"), "{noted:?}");
    admitted(start(&handle, true).await);
    admitted(start(&handle, false).await);
    assert_eq!(events(&handle, "kernel_panic").await.len(), 2, "the start by force is noted");

    // The next supervisor of this boot does not ask again, unless there is a new panic.
    handle.hand_over();
    while handle.status().await.is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let handle = supervisor(folder.path(), &host);
    admitted(start(&handle, false).await);
    handle.hand_over();
    while handle.status().await.is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::write(reports.path().join("panic-full-2026-11-26-111213.0002.panic"), "").unwrap();
    let handle = supervisor(folder.path(), &host);
    assert_eq!(start(&handle, false).await.unwrap_err().code, ErrorCode::Refused);
}

#[tokio::test]
async fn memory_is_read_again_before_a_start_is_refused_for_what_is_available_now() {
    let folder = tempfile::tempdir().unwrap();
    let host = Fake::new(Bytes::gb(128));
    let handle = supervisor(folder.path(), &host);
    let reading = |available| MemoryReading { available: Some(available), ..MemoryReading::default() };
    host.set_memory(reading(Bytes::mb(1)));
    // If readings are fresh, one is enough.
    assert_eq!(start(&handle, false).await.unwrap_err().code, ErrorCode::Refused);

    host.set_memory_lag(Duration::from_millis(200));
    let asked = tokio::spawn({
        let handle = handle.clone();
        async move { start(&handle, false).await }
    });
    // The loop has judged it, by the old reading.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(handle.status().await.is_some() && !asked.is_finished());
    host.set_memory(reading(Bytes::gb(100)));
    admitted(asked.await.unwrap());

    host.set_memory(reading(Bytes::mb(1)));
    assert_eq!(start(&handle, false).await.unwrap_err().code, ErrorCode::Refused, "twice is enough");
}
