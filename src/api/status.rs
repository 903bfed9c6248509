//! `GET /v1/status`, and what `mlxctl status --json` prints. Keys are promises: scripts stand on them. A value that is
//! not known is null. More may be added.

use serde::{Deserialize, Serialize};

use super::traffic::TrafficStatus;
use crate::host::Pressure;
use crate::registry::Start;

/// The version of the documents here.
pub const SCHEMA: u32 = 1;

/// `GET /v1/status`, `mlxctl status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub schema: u32,
    /// `None`: no supervisor runs, and the rest is the plan.
    pub supervisor: Option<SupervisorStatus>,
    pub host: HostStatus,
    pub budget: BudgetStatus,
    /// In the registry's order.
    pub models: Vec<ModelStatus>,
    /// The one address of all models; null: the registry names none.
    #[serde(default)]
    pub router: Option<RouterStatus>,
    /// The demo's answer; only in `demo --json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    pub pid: i32,
    pub version: String,
    /// Since it started, sleep included.
    pub uptime_seconds: f64,
    /// The registry in force.
    pub config: String,
    /// Why the file on disk is not the registry in force, if it is not.
    #[serde(default)]
    pub config_problem: Option<String>,
    /// What the OS charges it.
    pub footprint_bytes: Option<u64>,
    /// Conditions that it waits out: an address that is not there, a full disk.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// The programs that the models yield to now.
    #[serde(default)]
    pub yielding_to: Vec<String>,
    /// The share of the time that the models work meanwhile; null: all of it.
    #[serde(default)]
    pub pace_percent: Option<u8>,
    /// Whether requests wait in line until those programs have ended.
    #[serde(default)]
    pub holding: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// "macOS 15.1".
    pub os: String,
    /// "Apple M4 Max".
    pub chip: Option<String>,
    pub memory_bytes: u64,
    /// What a new process could take.
    pub available_bytes: Option<u64>,
    pub pressure: Pressure,
    pub swap_used_bytes: Option<u64>,
    pub gpu_limit_bytes: Option<u64>,
}

/// total − reserves − models = free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetStatus {
    /// The machine's memory.
    pub total_bytes: u64,
    /// The reserves that are in force.
    pub reserved_bytes: u64,
    /// Granted to models (without a supervisor: planned for the always-on ones).
    pub models_bytes: u64,
    /// What is left, negative when the plan does not fit.
    pub free_bytes: i64,
    pub reserves: Vec<ReserveStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReserveStatus {
    /// "Civ V".
    pub name: String,
    pub bytes: u64,
    /// Whether it is in force now.
    pub active: bool,
}

/// The one address of all models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// `192.168.132.21:8899`.
    pub address: String,
    /// Why it does not listen there, if it does not.
    pub problem: Option<String>,
}

/// What a model is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Not running, and nothing will start it by itself.
    Stopped,
    /// Its process lives, and no supervisor looks after it. Only in a document without a supervisor.
    Unsupervised,
    /// The process is being made.
    Spawning,
    /// It reads its weights. Listening is not ready.
    Loading,
    /// It has completed a token and owns its port.
    Ready,
    /// It finishes what is in flight and takes nothing new.
    Draining,
    /// It was told to end.
    Stopping,
    /// It is down and comes back at a known time.
    Backoff,
    /// It is down and stays down until someone acts.
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
    /// `32b`.
    pub name: String,
    pub repo: String,
    /// `always` or `manual`.
    pub start: Start,
    pub state: StateName,
    /// Why it is in that state, where that needs saying.
    pub reason: Option<String>,
    #[serde(default)]
    pub hint: Option<String>,
    pub pid: Option<i32>,
    /// The gate's: `192.168.132.21:8800`.
    pub address: String,
    /// Where the gate listens now, which may be elsewhere or nowhere.
    #[serde(default)]
    pub gate: GateStatus,
    /// The backend's on loopback.
    pub backend_address: Option<String>,
    /// Of the backend, since its spawn.
    pub uptime_seconds: Option<f64>,
    /// Restarts after a crash, since it was last started by hand or with the supervisor.
    pub restarts: u32,
    /// Whether this supervisor found it running.
    pub adopted: bool,
    /// Seconds until the next start, in `backoff`.
    #[serde(default)]
    pub next_start_seconds: Option<f64>,
    /// Since its last request, or since it is ready, in seconds; null while a request is in flight, or if not `ready`.
    #[serde(default)]
    pub idle_seconds: Option<f64>,
    /// Seconds until it is stopped by itself, unless a request comes; null: it stays.
    #[serde(default)]
    pub stops_in_seconds: Option<f64>,
    /// `"08:00"`, local time: stopped outside its hours, which begin again then; null: it is not.
    #[serde(default)]
    pub asleep_until: Option<String>,
    /// How far loading is, 0 to 1, in `loading`.
    #[serde(default)]
    pub progress: Option<f64>,
    /// What the live run serves, which is not `repo` between `mlxctl use` and a restart; null: no run, or one of an
    /// earlier version.
    #[serde(default)]
    pub running_repo: Option<String>,
    /// How its run differs from the registry in force, if it does.
    #[serde(default)]
    pub outdated: Option<String>,
    /// Why a start would be refused now, whatever memory there is; null: nothing but memory decides.
    #[serde(default)]
    pub held_back: Option<HeldBack>,
    /// Its ranks, where it runs on several; as they were last heard of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankStatus>,
    pub memory: ModelMemoryStatus,
    pub health: HealthStatus,
    pub traffic: TrafficStatus,
}

impl ModelStatus {
    /// Of a model that does not run.
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

/// What keeps a model from being started without `--force`, apart from memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// Memory pressure, a program that the models yield to, power, a kernel panic.
    pub reason: String,
    pub hint: String,
}

/// Where a gate listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateStatus {
    /// The addresses on which it takes requests now.
    pub listening: Vec<String>,
    /// Why it does not listen on the registry's address, if it does not.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelMemoryStatus {
    /// What admission reserves for it.
    pub estimate_bytes: Option<u64>,
    pub weights_bytes: Option<u64>,
    /// Whether its start went past a refusal (`--force`).
    #[serde(default)]
    pub forced: bool,
    /// By how much that start was over what there was.
    #[serde(default)]
    pub overdraft_bytes: Option<u64>,
    /// Bound of the KV caches between requests.
    pub kv_limit_bytes: Option<u64>,
    /// What the OS charges the backend now.
    pub footprint_bytes: Option<u64>,
    /// The most it was seen to take in this run.
    pub peak_bytes: Option<u64>,
    /// Kept prompts on disk; null while nothing runs that has any.
    #[serde(default)]
    pub prompt_store: Option<StoreFacts>,
}

/// A model's health: three things that are not the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// The process lives.
    pub alive: bool,
    /// It alone listens on its port.
    pub listening: bool,
    /// It completes tokens.
    pub answering: bool,
    /// Since the last check that it passed.
    pub last_probe_seconds: Option<f64>,
}

/// Kept prompts on disk, as the launcher counts them since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreFacts {
    /// Prompts that may be read back.
    pub entries: u64,
    /// Bytes that these take.
    pub bytes: u64,
    /// Requests that began with one of them.
    pub hits: u64,
    /// Tokens that were read back instead of computed.
    pub read_tokens: u64,
    /// Bytes that were read back.
    pub read_bytes: u64,
    /// Prompts that were written.
    pub written: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Files that were set aside.
    pub damaged: u64,
    /// The last problem; serving continues.
    pub trouble: Option<String>,
}

/// One rank of a model that runs on several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankStatus {
    pub rank: usize,
    /// Where it runs, as the registry names it.
    pub host: String,
    /// Of its Python, on that host.
    pub pid: Option<i32>,
    /// What that host charges its Python.
    pub footprint_bytes: Option<u64>,
    pub state: RankState,
}

/// What a rank is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankState {
    /// It has no Python yet.
    Starting,
    Running,
    /// Signs of life are missing.
    Silent,
    Ended,
}
