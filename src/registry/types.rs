//! What a valid registry is made of.

mod cluster;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use cluster::{Cluster, Rank};
use ipnet::IpNet;

use crate::clock::hours::Hours;

use super::choices::{ProcessType, Start};
use super::keys::{
    Health, Limits, ModelMemory, Notify, Power, PressureSettings, Restart, Sampling, ServerOptions, Stop,
};
use super::problem::Written;
use crate::units::Bytes;

/// Longest prompt plus answer where the registry names none, tokens (no longer than the model's own limit). A 32B
/// and a 72B model, 4-bit, fit beside macOS and a game into 128 GB with it.
pub(crate) const CONTEXT: u32 = 32_768;
/// Requests in the backend at once where the registry names none: each further one is promised a whole context of KV
/// (8.59 GB for a 32B model). The rest queues at the gate.
pub(crate) const CONCURRENCY: u32 = 1;

/// A valid registry. Paths are absolute, names are unique, ports are distinct.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// The file it was read from.
    pub file: PathBuf,
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
    /// How the owner is told of what matters.
    pub notify: Notify,
    pub metrics: Metrics,
    pub page: Page,
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
    pub size: Bytes,
    /// Held only while a program of one of these names runs; empty: always.
    pub while_running: Vec<String>,
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

/// Where the page for a browser is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub address: Option<SocketAddr>,
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
    pub source: Source,
    /// Other names of it, unique over all models.
    pub aliases: Vec<String>,
    /// Values for requests under some of those names.
    pub presets: Vec<Preset>,
    /// Repositories that `mlxctl use` may switch to.
    pub alternatives: Vec<String>,
    /// The gate's port, 1 to 65535, unique.
    pub port: u16,
    /// When it is started.
    pub start: Start,
    /// When an always-on model is up, by the local time; `None`: always.
    pub hours: Option<Hours>,
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
    pub stop: Stop,
    /// What one client, or all of them, may ask of the gate.
    pub limits: Limits,
}

/// Values for requests that ask for the model by this alias and name none themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    pub name: String,
    /// At least one value.
    pub set: Sampling,
}

impl Sampling {
    /// What is set, by the name that requests have for it.
    pub fn values(&self) -> Vec<(&'static str, serde_json::Number)> {
        let real = |value: Option<f64>| value.and_then(serde_json::Number::from_f64);
        [
            ("max_tokens", self.max_tokens.map(Into::into)),
            ("temperature", real(self.temperature)),
            ("top_p", real(self.top_p)),
            ("top_k", self.top_k.map(Into::into)),
            ("min_p", real(self.min_p)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}
