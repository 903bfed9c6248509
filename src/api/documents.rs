//! The documents that travel over the control socket, and that `--json` prints. Keys are promises: scripts
//! stand on them. A value that is not known is null. More may be added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::Pressure;
use crate::registry::Start;

/// The version of the documents here.
pub const SCHEMA: u32 = 1;

/// `GET /v1/status`, `mlxctl status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `None`: no supervisor runs, and the rest is the plan.
    pub supervisor: Option<SupervisorStatus>,
    /// The machine.
    pub host: HostStatus,
    /// The memory budget.
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

/// The daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    /// Process id.
    pub pid: i32,
    /// Its version.
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

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// "macOS 15.1".
    pub os: String,
    /// "Apple M4 Max".
    pub chip: Option<String>,
    /// Installed.
    pub memory_bytes: u64,
    /// What a new process could take.
    pub available_bytes: Option<u64>,
    /// The system's own word.
    pub pressure: Pressure,
    /// Swap in use.
    pub swap_used_bytes: Option<u64>,
    /// What the GPU may hold.
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
    /// Each reserve.
    pub reserves: Vec<ReserveStatus>,
}

/// One reserve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReserveStatus {
    /// "Civ V".
    pub name: String,
    /// Its size.
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
    #[must_use]
    pub fn holds_memory(self) -> bool {
        !matches!(self, Self::Stopped | Self::Failed | Self::Backoff)
    }
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// `32b`.
    pub name: String,
    /// What it serves.
    pub repo: String,
    /// `always` or `manual`.
    pub start: Start,
    /// In one word.
    pub state: StateName,
    /// Why it is in that state, where that needs saying.
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Of the backend.
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
    /// Its memory.
    pub memory: ModelMemoryStatus,
    /// Its health.
    pub health: HealthStatus,
    /// Its requests.
    pub traffic: TrafficStatus,
}

/// What keeps a model from being started without `--force`, apart from memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// Memory pressure, a program that the models yield to, power, a kernel panic.
    pub reason: String,
    /// What to do about it.
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

/// A model's memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelMemoryStatus {
    /// What admission reserves for it.
    pub estimate_bytes: Option<u64>,
    /// Its weights.
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

/// What was asked with one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUsage {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Those of them that were not computed, but kept from an earlier prompt.
    pub cached_tokens: u64,
    /// Tokens of their answers.
    pub tokens: u64,
}

impl KeyUsage {
    /// Counts another one in.
    pub fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

/// What is counted of a model's requests, since the first supervisor of this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All that were accepted.
    pub requests: u64,
    /// Those of them that did not end well.
    pub errors: u64,
    /// Streamed chunks and counted tokens of answers.
    pub tokens: u64,
    /// Tokens of prompts.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Those of them that were not computed, but kept from an earlier prompt.
    #[serde(default)]
    pub cached_tokens: u64,
    /// By the names of their keys, where keys are asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, KeyUsage>,
    /// When counting began, RFC 3339, UTC; null where an earlier version began it.
    #[serde(default)]
    pub since: Option<String>,
}

impl Counts {
    /// These, after what was counted `before` them.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for (name, usage) in &before.keys {
            self.keys.entry(name.clone()).or_default().add(*usage);
        }
        Self {
            requests: self.requests.saturating_add(before.requests),
            errors: self.errors.saturating_add(before.errors),
            tokens: self.tokens.saturating_add(before.tokens),
            prompt_tokens: self.prompt_tokens.saturating_add(before.prompt_tokens),
            cached_tokens: self.cached_tokens.saturating_add(before.cached_tokens),
            keys: self.keys,
            since: match &before.since {
                None if before.requests == 0 => self.since,
                since => since.clone(),
            },
        }
    }
}

/// A model's requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Now.
    pub in_flight: u64,
    /// Since the first supervisor of this boot.
    #[serde(flatten)]
    pub counts: Counts,
    /// Over the last answers; null before the first.
    pub tokens_per_second: Option<f64>,
    /// Time to first token of the last answers, milliseconds.
    pub ttft_ms: Option<f64>,
}

/// One line of `mlxctl events --json`, and of the events file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Goes up by one an event, across supervisors.
    pub seq: u64,
    /// Wall time, RFC 3339, UTC.
    pub at: String,
    /// The model it is about; null: the supervisor.
    pub model: Option<String>,
    /// `spawned`, `ready`, `crashed`, `restart`, `refused`, `stopped`, `adopted`, `reloaded`, …
    pub kind: String,
    /// In one sentence, with why.
    pub text: String,
    /// What to do about it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Body of `POST /v1/models/{name}/start`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StartRequest {
    /// Whether to go past a refusal.
    pub force: bool,
    /// Whether the answer waits until the model is ready (true) or comes at once.
    pub wait: bool,
    /// The longest that the answer may take, seconds.
    pub timeout_seconds: Option<f64>,
    /// After it was ready for this long, seconds above 0, it is stopped. Manual models only. Not sent where it is not
    /// used: an older supervisor refuses what it does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<f64>,
}

/// Body of `POST /v1/models/{name}/stop` and `/restart`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// Whether to skip the drain.
    pub now: bool,
    /// The longest that the drain may take, seconds; the registry's, if not named.
    pub timeout_seconds: Option<f64>,
}

/// What came of a command that was understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandDone {
    /// The model after it.
    pub model: ModelStatus,
    /// Whether there was anything to do.
    pub changed: bool,
    /// One sentence: "stopped 32b: group gone, port 8800's backend port free, 18.9 GB back".
    pub text: String,
}

/// The header of every answer; its value is the server's [`SCHEMA`].
pub const SCHEMA_HEADER: &str = "x-mlxctl-schema";

/// How far a command is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Of the model, now.
    pub state: StateName,
    /// What happens, in a few words: "reading weights, 12.3 GB of 40.9 GB".
    pub text: String,
    /// How far loading is, 0 to 1.
    pub fraction: Option<f64>,
    /// Since the command's work began, which may be before this request.
    pub elapsed_seconds: f64,
}

/// One line of the answer to `start`, `stop` and `restart`: any number of `progress`, then one of the others.
/// A blank line is a sign of life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and none is kept")]
pub enum Line {
    /// It goes on.
    Progress(Progress),
    /// It is done.
    Done(CommandDone),
    /// It was not done.
    Error(ApiError),
}

/// `GET /v1/events?after=SEQ&limit=N`: the first `limit` events after `after`; without `after`, the newest ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<EventRecord>,
    /// Pass this as `after` to continue from here.
    pub next: u64,
}

/// Body of `POST /v1/reload`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadRequest {
    /// Show what would change, and change nothing.
    pub dry_run: bool,
}

/// Body of `POST /v1/handover`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandoverRequest {
    /// Answer once nothing is in flight any more, and then stay until SIGTERM, so many seconds at most: for a service
    /// manager that unloads the job next. `null`: answer and leave.
    pub hold_seconds: Option<f64>,
}

/// Answer of `POST /v1/handover`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedOver {
    /// Nothing is in flight, and the supervisor waits for SIGTERM. Absent: it is older and leaves by itself.
    pub holds: bool,
}

/// What a reload changes, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// A line a model, and one for `[router]` and `[metrics]` each, if they change.
    pub changes: Vec<Change>,
    /// Whether it is in force now.
    pub applied: bool,
}

/// What a reload means for one model, or for a listener that is no model's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its name.
    pub model: String,
    /// In one word.
    pub change: ChangeKind,
    /// Which settings, and what happens to the run.
    pub detail: Option<String>,
}

/// The kinds of [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is no longer in the registry.
    Removed,
    /// Some setting is another.
    Changed,
    /// It is as it was.
    Unchanged,
}

/// Why a command was not done, with its exit code for the command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiError {
    /// `unknown_model`, `refused`, `busy`, `failed`, `timeout`, `bad_request`, `shutting_down`.
    pub code: ErrorCode,
    /// What and why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// The kinds of [`ApiError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Nothing of that name is in the registry.
    UnknownModel,
    /// Not now: memory, pressure, the supervisor ends.
    Refused,
    /// It was tried and did not succeed.
    Failed,
    /// It did not happen in time; it may still.
    Timeout,
    /// The request is none.
    BadRequest,
    /// The model is not running.
    NotRunning,
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
    /// Its number.
    pub rank: usize,
    /// Where it runs, as the registry names it.
    pub host: String,
    /// Of its Python, on that host.
    pub pid: Option<i32>,
    /// What that host charges its Python.
    pub footprint_bytes: Option<u64>,
    /// In one word.
    pub state: RankState,
}

/// What a rank is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankState {
    /// It has no Python yet.
    Starting,
    /// Its Python runs.
    Running,
    /// Signs of life are missing.
    Silent,
    /// It is gone.
    Ended,
}
