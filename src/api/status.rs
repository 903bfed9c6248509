//! `GET /v1/status`, and what `mlxctl status --json` prints. Scripts rely on the keys: some may be added, none changed
//! or removed. Unknown values are null.

use serde::{Deserialize, Serialize};

use super::traffic::TrafficStatus;
use crate::host::Pressure;
use crate::registry::Start;

/// Version of the documents in this module.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub schema: u32,
    /// `None` if no supervisor is running; the rest is then the plan.
    pub supervisor: Option<SupervisorStatus>,
    pub host: HostStatus,
    pub budget: BudgetStatus,
    pub models: Vec<ModelStatus>,
    /// The one address of all models; null if the registry has no `[router]`.
    #[serde(default)]
    pub router: Option<RouterStatus>,
    /// The model's answer; only in `demo --json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    pub pid: i32,
    pub version: String,
    /// Seconds since it started, including sleep.
    pub uptime_seconds: f64,
    /// Path of the registry that is in force.
    pub config: String,
    /// Why the file on disk is not in force, if so.
    #[serde(default)]
    pub config_problem: Option<String>,
    /// Memory that the OS charges to the supervisor.
    pub footprint_bytes: Option<u64>,
    /// Conditions that it waits out: a missing address, a full disk.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// Running programs that the models yield to.
    #[serde(default)]
    pub yielding_to: Vec<String>,
    /// Share of the time that the models work meanwhile, 5 to 95; null for all of it.
    #[serde(default)]
    pub pace_percent: Option<u8>,
    /// Whether requests queue until those programs have ended.
    #[serde(default)]
    pub holding: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Name and version, such as "macOS 15.1".
    pub os: String,
    /// The system's name for it, such as "Apple M4 Max".
    pub chip: Option<String>,
    pub memory_bytes: u64,
    /// What a new process could allocate without swapping.
    pub available_bytes: Option<u64>,
    pub pressure: Pressure,
    pub swap_used_bytes: Option<u64>,
    pub gpu_limit_bytes: Option<u64>,
}

/// total − reserved − models = free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetStatus {
    pub total_bytes: u64,
    /// Sum of the reserves in force.
    pub reserved_bytes: u64,
    /// Granted to models; without a supervisor, planned for the always-on ones.
    pub models_bytes: u64,
    /// Negative if the plan does not fit.
    pub free_bytes: i64,
    pub reserves: Vec<ReserveStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReserveStatus {
    pub name: String,
    pub bytes: u64,
    /// Whether it counts now: always, or because its program is running.
    pub active: bool,
}

/// The one address of all models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    pub address: String,
    /// Why it does not listen there, if so.
    pub problem: Option<String>,
}

/// What a model is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Not running, and not about to start automatically.
    Stopped,
    /// Its process runs without a supervisor. Only in a document without a supervisor.
    Unsupervised,
    /// Its process is being created; on several machines, they are first asked for memory.
    Spawning,
    /// Reading weights; it may listen already but has not completed a token.
    Loading,
    /// It completed a token and owns its port.
    Ready,
    /// Finishing requests in flight, refusing new ones.
    Draining,
    /// Its process was signalled and has not ended yet.
    Stopping,
    /// Down until a known time.
    Backoff,
    /// Down until someone acts.
    Failed,
}

impl StateName {
    /// Whether memory is granted to a model in this state.
    pub fn holds_memory(self) -> bool {
        !matches!(self, Self::Stopped | Self::Failed | Self::Backoff)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    pub name: String,
    pub repo: String,
    pub start: Start,
    pub state: StateName,
    /// Why it is in that state, if that needs an explanation.
    pub reason: Option<String>,
    #[serde(default)]
    pub hint: Option<String>,
    pub pid: Option<i32>,
    /// The gate's address in the registry: `192.168.132.21:8800`.
    pub address: String,
    /// Where the gate listens now, which may differ from `address`.
    #[serde(default)]
    pub gate: GateStatus,
    /// Where the backend listens, on loopback.
    pub backend_address: Option<String>,
    /// Seconds since the backend was spawned.
    pub uptime_seconds: Option<f64>,
    /// Restarts after crashes, since it was last started by hand or with the supervisor.
    pub restarts: u32,
    /// Whether this supervisor found it running.
    pub adopted: bool,
    /// Seconds until the next start, in `backoff`.
    #[serde(default)]
    pub next_start_seconds: Option<f64>,
    /// Seconds since its last request, or since it became ready; null while a request is in flight, or if not `ready`.
    #[serde(default)]
    pub idle_seconds: Option<f64>,
    /// Seconds until it stops automatically, unless a request comes; null if it does not.
    #[serde(default)]
    pub stops_in_seconds: Option<f64>,
    /// Local time, `"08:00"`, when its hours begin again; null unless it is stopped outside its hours.
    #[serde(default)]
    pub asleep_until: Option<String>,
    /// Progress of `loading`, 0 to 1.
    #[serde(default)]
    pub progress: Option<f64>,
    /// What the live run serves; differs from `repo` between `mlxctl use` and a restart. Null without a run, or for one
    /// of an earlier version.
    #[serde(default)]
    pub running_repo: Option<String>,
    /// How its run differs from the registry, if it does.
    #[serde(default)]
    pub outdated: Option<String>,
    /// Why a start would be refused now, regardless of memory; null if only memory decides.
    #[serde(default)]
    pub held_back: Option<HeldBack>,
    /// Its ranks, if it runs on several, as of their last signs of life.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankStatus>,
    pub memory: ModelMemoryStatus,
    pub health: HealthStatus,
    pub traffic: TrafficStatus,
}

impl ModelStatus {
    /// The status of a model that is not running: everything else is null, zero or empty.
    pub fn stopped(name: &str, repo: String, start: Start, address: String) -> Self {
        Self {
            name: name.to_owned(),
            repo,
            start,
            state: StateName::Stopped,
            reason: None,
            hint: None,
            pid: None,
            address,
            gate: GateStatus::default(),
            backend_address: None,
            uptime_seconds: None,
            restarts: 0,
            adopted: false,
            next_start_seconds: None,
            idle_seconds: None,
            stops_in_seconds: None,
            asleep_until: None,
            progress: None,
            running_repo: None,
            outdated: None,
            held_back: None,
            ranks: Vec::new(),
            memory: ModelMemoryStatus::default(),
            health: HealthStatus::default(),
            traffic: TrafficStatus::default(),
        }
    }
}

/// What prevents a start without `--force`, apart from memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// Memory pressure, a program that the models yield to, power, a kernel panic.
    pub reason: String,
    pub hint: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateStatus {
    /// The addresses on which it accepts requests now.
    pub listening: Vec<String>,
    /// Why it does not listen on the registry's address, if so.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelMemoryStatus {
    /// Bytes that admission reserves for it.
    pub estimate_bytes: Option<u64>,
    pub weights_bytes: Option<u64>,
    /// Whether it was started despite a refusal (`--force`).
    #[serde(default)]
    pub forced: bool,
    /// How much more than available that start needed.
    #[serde(default)]
    pub overdraft_bytes: Option<u64>,
    /// Limit on the KV caches that are kept between requests.
    pub kv_limit_bytes: Option<u64>,
    /// What the OS charges to the backend now.
    pub footprint_bytes: Option<u64>,
    /// Highest footprint seen in this run.
    pub peak_bytes: Option<u64>,
    /// Kept prompts on disk; null unless a running backend has a store.
    #[serde(default)]
    pub prompt_store: Option<StoreFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    pub alive: bool,
    /// Whether it alone listens on its port.
    pub listening: bool,
    /// Whether it completed a token at the last check.
    pub answering: bool,
    /// Seconds since the last check that it passed.
    pub last_probe_seconds: Option<f64>,
}

/// Kept prompts on disk; everything but `entries` and `bytes` counts since the launcher's start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreFacts {
    /// Prompts that can be read back.
    pub entries: u64,
    pub bytes: u64,
    /// Requests that began with a stored prompt.
    pub hits: u64,
    /// Tokens read back instead of computed.
    pub read_tokens: u64,
    pub read_bytes: u64,
    pub written: u64,
    pub written_bytes: u64,
    /// Files set aside because they were torn or damaged.
    pub damaged: u64,
    /// The last problem with the store, which does not stop serving.
    pub trouble: Option<String>,
}

/// One rank of a model that runs on several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankStatus {
    pub rank: usize,
    /// Where it runs, by its name in the registry.
    pub host: String,
    /// pid of its Python on that host.
    pub pid: Option<i32>,
    /// Memory that its host charges to its Python.
    pub footprint_bytes: Option<u64>,
    pub state: RankState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankState {
    /// Its Python has not started yet.
    Starting,
    Running,
    /// No sign of life for more than three heartbeats.
    Silent,
    Ended,
}
