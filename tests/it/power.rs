//! Sleep and power with a whole supervisor: the machine is real except for its battery.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mlxctl::internals::api::{ErrorCode, StartRequest, StateName, StopRequest};
use mlxctl::internals::clock::Moment;
use mlxctl::internals::clock::hours::LocalTime;
use mlxctl::internals::host::{
    ExitWatch, Facts, Footprint, Host, Identity, Marked, MemoryReading, Power, Priority, Signal, SleepHold,
};
use mlxctl::internals::registry::Registry;
use mlxctl::internals::supervisor::{Handle, Options, Supervisor};
use mlxctl::internals::units::Bytes;

use crate::real;
use crate::support::{PATIENCE, free_port, http, venv};

/// This machine with a battery.
struct Laptop {
    machine: Arc<dyn Host>,
    power: Mutex<Power>,
    held: Arc<()>,
}

impl Host for Laptop {
    fn power(&self) -> io::Result<Power> {
        Ok(*self.power.lock().unwrap())
    }
    fn hold_sleep(&self) -> io::Result<SleepHold> {
        Ok(Box::new(self.held.clone()))
    }
    fn local_time(&self) -> Option<LocalTime> {
        self.machine.local_time()
    }
    fn now(&self) -> Moment {
        self.machine.now()
    }
    fn facts(&self) -> &Facts {
        self.machine.facts()
    }
    fn memory(&self) -> io::Result<MemoryReading> {
        self.machine.memory()
    }
    fn identify(&self, pid: i32) -> io::Result<Option<Identity>> {
        self.machine.identify(pid)
    }
    fn started(&self, who: Identity) -> Moment {
        self.machine.started(who)
    }
    fn watch(&self, who: Identity) -> io::Result<ExitWatch> {
        self.machine.watch(who)
    }
    fn footprint(&self, who: Identity) -> io::Result<Footprint> {
        self.machine.footprint(who)
    }
    fn cpu_time(&self, who: Identity) -> io::Result<Duration> {
        self.machine.cpu_time(who)
    }
    fn bytes_read(&self, who: Identity) -> Option<Bytes> {
        self.machine.bytes_read(who)
    }
    fn signal(&self, who: Identity, signal: Signal) -> io::Result<()> {
        self.machine.signal(who, signal)
    }
    fn group_alive(&self, who: Identity) -> bool {
        self.machine.group_alive(who)
    }
    fn owns_port(&self, who: Identity, port: u16) -> Option<bool> {
        self.machine.owns_port(who, port)
    }
    fn set_priority(&self, who: Identity, priority: Priority) -> io::Result<()> {
        self.machine.set_priority(who, priority)
    }
    fn give_back(&self) {
        self.machine.give_back();
    }
    fn running(&self, names: &[String]) -> Vec<String> {
        self.machine.running(names)
    }
    fn awake(&self) -> Moment {
        self.machine.awake()
    }

    fn find_by_argument(&self, marker: &str) -> Vec<Marked> {
        self.machine.find_by_argument(marker)
    }
}

impl Laptop {
    fn unplug(&self, on_battery: bool) {
        *self.power.lock().unwrap() = Power { on_battery: Some(on_battery), low_power: Some(false) };
    }

    fn awake(&self) -> bool {
        Arc::strong_count(&self.held) > 1
    }
}

struct Bench {
    folder: tempfile::TempDir,
    port: u16,
}

impl Bench {
    fn registry(&self, power: &str) -> Registry {
        let text = format!(
            "[paths]\nroot = {:?}\nvenv = {:?}\n[memory]\nreserve = []\n[power]\n{power}\n\
             [[model]]\nname = \"70b\"\nrepo = {:?}\nport = {}\nsize = \"1GB\"\n",
            self.folder.path(),
            venv(),
            real::tiny_model(),
            self.port
        );
        Registry::parse(&self.folder.path().join("models.toml"), &text).unwrap()
    }
}

async fn start(handle: &Handle, force: bool) -> Result<String, (ErrorCode, String)> {
    let request = StartRequest { force, wait: true, timeout_seconds: None, for_seconds: None };
    let done = handle.start("70b", request).await;
    done.map(|done| done.text).map_err(|error| (error.code, error.message))
}

/// Rules are judged when they change: this changes them without changing their effect.
async fn look_again(handle: &Handle, bench: &Bench, low_power: &str) {
    let registry = bench.registry(&format!("on_battery = \"stop_manual\"\nlow_power = \"{low_power}\""));
    handle.reload(Ok(Box::new(registry)), false).await.unwrap();
}

async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !seen().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_registry_decides_on_battery_and_requests_keep_the_machine_awake() {
    let folder = tempfile::Builder::new().prefix("mlx").tempdir().unwrap();
    let bench = Bench { folder, port: free_port() };
    let laptop = Arc::new(Laptop {
        machine: mlxctl::internals::host::system(),
        power: Mutex::default(),
        held: Arc::default(),
    });
    laptop.unplug(false);
    let supervisor = Supervisor::new(Options {
        registry: bench.registry("on_battery = \"stop_manual\""),
        host: laptop.clone(),
        binary: env!("CARGO_BIN_EXE_mlxctl").into(),
    });
    let supervisor = supervisor.map_err(|error| error.to_string()).unwrap();
    let handle = supervisor.handle();
    let running = tokio::spawn(supervisor.run());

    start(&handle, false).await.unwrap();
    assert!(!laptop.awake(), "a ready model alone lets the machine sleep");
    let gate = std::net::SocketAddr::from(([127, 0, 0, 1], bench.port));
    let body = r#"{"model":"70b","prompt":"a","max_tokens":64}"#;
    let asked = tokio::task::spawn_blocking(move || http(gate, "POST", "/v1/completions", body));
    until("a request holds sleep off", async || laptop.awake()).await;
    assert_eq!(asked.await.unwrap().0, 200);
    until("after the last request the machine may sleep", async || !laptop.awake()).await;

    laptop.unplug(true);
    look_again(&handle, &bench, "refuse_manual").await;
    let state = async || handle.model("70b").await.unwrap();
    until("on battery it is stopped", async || state().await.state == StateName::Stopped).await;
    assert_eq!(state().await.reason.as_deref(), Some("stopped to save power"));
    let (code, why) = start(&handle, false).await.unwrap_err();
    assert!(code == ErrorCode::Refused && why.contains("running on battery"), "{why}");
    start(&handle, true).await.unwrap();
    look_again(&handle, &bench, "serve").await;
    assert_eq!(state().await.state, StateName::Ready, "what was forced stays");

    handle.stop("70b", StopRequest::default()).await.unwrap();
    laptop.unplug(false);
    look_again(&handle, &bench, "refuse_manual").await;
    until("on the adapter it starts again", async || start(&handle, false).await.is_ok()).await;
    handle.shutdown(true);
    running.await.unwrap();
}
