//! What a valid registry is made of.

mod cluster;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use cluster::{Cluster, ClusterBackend, ClusterMode, Rank};
use ipnet::IpNet;

use super::{PressureSettings, Written};
use crate::units::Bytes;

/// Longest prompt plus answer where the registry names none, tokens (no longer than the model's own limit). A 32B
/// and a 72B model, 4-bit, fit beside macOS and a game into 128 GB with it.
pub const CONTEXT: u32 = 32_768;
/// Requests in the backend at once where the registry names none: each further one is promised a whole context of KV
/// (8.59 GB for a 32B model). The rest queues at the gate.
pub const CONCURRENCY: u32 = 1;

/// A valid registry. Paths are absolute, names are unique, ports are distinct.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// The file it was read from.
    pub file: PathBuf,
    /// Where things lie on disk.
    pub paths: Paths,
    /// The Python environment of the backends.
    pub python: Python,
    /// Where the gates listen and whom they let in.
    pub network: Network,
    /// What is promised to something other than models.
    pub reserves: Vec<Reserve>,
    /// What happens under memory pressure, and what the models yield to.
    pub pressure: PressureSettings,
    /// What happens on battery and in low power mode.
    pub power: Power,
    /// The launchd agent (systemd user unit on Linux).
    pub agent: Agent,
    /// Where numbers are read off.
    pub metrics: Metrics,
    /// Port of the one address for all models, on [`Network::host`]; `None`: there is none.
    pub router: Option<u16>,
    /// The models, in the file's order.
    pub models: Vec<Model>,
    /// Where in the file each value stands; says nothing about equality.
    pub written: Written,
}

/// Where things lie on disk; all absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The folder below which everything else lies unless named.
    pub root: PathBuf,
    /// The virtual environment.
    pub venv: PathBuf,
    /// Log files: `NAME.log` a model, `mlxctl.log` for the supervisor.
    pub logs: PathBuf,
    /// Sockets, locks and the records of live backends (mode 0700).
    pub run: PathBuf,
    /// What outlives a boot: learned values, keys, events.
    pub state: PathBuf,
}

/// The Python environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// An interpreter to build the venv with, instead of the one that is found.
    pub interpreter: Option<PathBuf>,
    /// Pinned requirements, without the platform's MLX, which is added.
    pub packages: Vec<String>,
}

/// The gates' addresses and their allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The address that every gate listens on, beside loopback when it is not there.
    pub host: IpAddr,
    /// Networks whose clients are served; empty: whoever reaches the address.
    pub allow_from: Vec<IpNet>,
    /// Browser origins that are answered with CORS headers; empty: none.
    pub allow_origins: Vec<String>,
    /// Host names, beside the address itself, that a request may name.
    pub allow_hosts: Vec<String>,
    /// Whether a bearer key is needed.
    pub require_key: bool,
}

/// Memory promised to something other than a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    /// For people: "macOS + apps", "Civ V".
    pub name: String,
    /// How much.
    pub size: Bytes,
    /// Held only while a program of one of these names runs; empty: always.
    pub while_running: Vec<String>,
}

/// What happens to manual models while power is short; always-on ones go on serving.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Power {
    /// While the machine runs on its battery.
    pub on_battery: PowerChoice,
    /// While it is in low power mode.
    pub low_power: PowerChoice,
}

/// From the mildest to the strictest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PowerChoice {
    /// Nothing changes.
    #[default]
    Serve,
    /// No manual model is started, unless `--force` says so.
    RefuseManual,
    /// And those that run are drained and stopped when it begins.
    StopManual,
}

/// The launchd agent: the seed's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// launchd's label.
    pub label: String,
    /// launchd's `ProcessType`.
    pub process_type: ProcessType,
    /// launchd's `Nice`, −20 to 20.
    pub nice: i8,
    /// launchd's `LowPriorityIO`.
    pub low_priority_io: bool,
    /// `PATH` of the agent.
    pub path: String,
    /// `WorkingDirectory`.
    pub working_directory: PathBuf,
    /// `StandardOutPath` and `StandardErrorPath`.
    pub log: PathBuf,
    /// `ExitTimeOut`: how long launchd waits between SIGTERM and SIGKILL.
    pub exit_timeout: Duration,
    /// `ThrottleInterval`: between two starts, at least; whole seconds, 1 or more.
    pub throttle_interval: Duration,
    /// `SoftResourceLimits` `NumberOfFiles`, 256 to 1 048 576.
    pub open_files: u64,
    /// `EnvironmentVariables` beside `PATH`, in their order: names are unique.
    pub environment: Vec<(String, String)>,
}

/// Where numbers are read off, beside the control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// A listener of its own that answers `GET /metrics` and nothing else.
    pub address: Option<SocketAddr>,
}

/// launchd's `ProcessType`, launchd.plist(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ProcessType {
    /// Low CPU and IO priority, always (`DARWIN_BG`); backends inherit it, and nothing lifts it from one of them.
    Background,
    /// launchd's default.
    Standard,
    /// Background unless boosted over XPC.
    Adaptive,
    /// As an application.
    Interactive,
}

/// When a model is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Comes up with the supervisor and comes back after a crash.
    Always,
    /// Only ever through `mlxctl start`.
    Manual,
}

/// Where a model's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `org/name` on the Hugging Face hub.
    Hub(String),
    /// A folder with `config.json` and safetensors files.
    Folder(PathBuf),
    /// The tiny model that mlxctl makes itself: `builtin:tiny`.
    Tiny,
}

/// One entry of the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Unique: `32b`.
    pub name: String,
    /// What it serves.
    pub source: Source,
    /// Other names of it, unique over all models.
    pub aliases: Vec<String>,
    /// Repositories that `mlxctl use` may switch to.
    pub alternatives: Vec<String>,
    /// The gate's port, 1 to 65535, unique.
    pub port: u16,
    /// When it is started.
    pub start: Start,
    /// Declared size in memory, for as long as the files are not there to be read.
    pub size: Option<Bytes>,
    /// Tokens a second that the owner expects, > 0.
    pub target: Option<f64>,
    /// The machines that it is spread over; `None`: this one alone.
    pub cluster: Option<Cluster>,
    /// Variables for its backend, beside those of the agent; names are unique.
    pub environment: Vec<(String, String)>,
    /// Options of `mlx_lm.server`.
    pub server: ServerOptions,
    /// Bounds from which the memory promise follows.
    pub memory: ModelMemory,
    /// When it counts as loaded, hung or gone.
    pub health: Health,
    /// What happens after a crash.
    pub restart: Restart,
    /// How it is stopped.
    pub stop: Stop,
    /// What one client, or all of them, may ask of the gate.
    pub limits: Limits,
}

/// Typed options of `mlx_lm.server`; `None` leaves the server's own default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerOptions {
    /// A smaller model for speculative decoding; stops batching.
    pub draft_model: Option<String>,
    /// Tokens that are drafted at once.
    pub num_draft_tokens: Option<u32>,
    /// Folder of LoRA weights.
    pub adapter_path: Option<PathBuf>,
    /// KV cache quantisation: 2, 3, 4, 5, 6 or 8 bits; stops batching.
    pub kv_bits: Option<u8>,
    /// Group size of it.
    pub kv_group_size: Option<u32>,
    /// First position that is quantised.
    pub quantized_kv_start: Option<u32>,
    /// Default for requests that name no `max_tokens`.
    pub max_tokens: Option<u32>,
    /// Default temperature.
    pub temperature: Option<f64>,
    /// Default top-p.
    pub top_p: Option<f64>,
    /// Default top-k.
    pub top_k: Option<u32>,
    /// Default min-p.
    pub min_p: Option<f64>,
    /// Requests decoded in one batch.
    pub decode_concurrency: Option<u32>,
    /// Prompts processed in one batch.
    pub prompt_concurrency: Option<u32>,
    /// Prompt tokens a step.
    pub prefill_step_size: Option<u32>,
    /// Distinct KV caches that are kept.
    pub prompt_cache: Option<u32>,
    /// A chat template in place of the model's.
    pub chat_template: Option<String>,
    /// Arguments of the chat template, a JSON object as text.
    pub chat_template_args: Option<String>,
    /// `DEBUG` to `CRITICAL`.
    pub log_level: Option<String>,
    /// The way out: passed on as they are, after everything else.
    pub extra_args: Vec<String>,
}

/// How much of a backend's memory MLX pins for the GPU (`mx.set_wired_limit`); without Metal there is nothing to pin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wired {
    /// None. The kernel panics that were reported under load (mlx 3186, mlx-lm 1666) need pinned memory.
    Off,
    /// As much as the weights take, set once and left alone.
    Weights,
    /// As `mlx_lm.server` does it: up to the recommended working set, set anew for each batch. Also what a backend
    /// does whose spec was written before there was a choice.
    #[default]
    Default,
}

/// Bounds from which the memory promise follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMemory {
    /// Longest prompt plus answer, tokens; `None`: [`CONTEXT`], or the model's own limit if
    /// that is less.
    pub context: Option<u32>,
    /// Requests in flight at once in the backend.
    pub concurrency: u32,
    /// Bytes of KV caches that are kept between requests.
    pub kv_limit: Option<Bytes>,
    /// MLX's buffer cache.
    pub cache_limit: Option<Bytes>,
    /// A ceiling for the whole backend; admission reserves no more than it and the backend is held to it.
    pub ceiling: Option<Bytes>,
    /// Bytes of kept prompts on disk; zero: none are written.
    pub prompt_store: Bytes,
    /// MLX's buffer cache is emptied after this time without a request.
    pub trim_after: Duration,
    /// Kept prompts are given up after this time without a request.
    pub forget_after: Duration,
    /// Whether critical memory pressure may stop it although it is always-on.
    pub yield_to_pressure: bool,
    /// What MLX pins for the GPU.
    pub wired: Wired,
}

/// When a model counts as loaded, hung or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// From spawn to the first completed token, at most.
    pub load_timeout: Duration,
    /// Between two liveness checks of an idle model.
    pub interval: Duration,
    /// How long one liveness check may take.
    pub timeout: Duration,
    /// No progress for so long while requests are in flight: hung.
    pub hang_after: Duration,
}

/// What happens after a crash.
#[derive(Debug, Clone, PartialEq)]
pub struct Restart {
    /// Whether a crash is followed by a new start at all; always-on: true, manual: false, unless named.
    pub enabled: bool,
    /// First wait.
    pub backoff_min: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// A run that was ready for so long forgives what was before.
    pub stable_after: Duration,
    /// So many crashes within `window` …
    pub max_crashes: u32,
    /// … put the model into quarantine.
    pub window: Duration,
}

/// How a model is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// How long requests in flight may take to finish.
    pub drain: Duration,
    /// Between SIGTERM and SIGKILL. Generous: SIGKILL can strand wired memory on a Mac.
    pub term: Duration,
}

/// What the gate lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight at the backend; the rest queues.
    pub in_flight: u32,
    /// Requests that may queue.
    pub queue: u32,
    /// How long one may queue, or wait for a model that restarts.
    pub queue_timeout: Duration,
    /// Connections of all clients.
    pub connections: u32,
    /// Request body.
    pub body: Bytes,
    /// Largest `max_tokens` that a request may ask for.
    pub max_tokens: Option<u32>,
    /// Messages of one chat.
    pub messages: u32,
    /// Slowest arrival of head and body.
    pub read_timeout: Duration,
    /// Whether content parts may name remote images (the server would fetch them).
    pub remote_images: bool,
}
