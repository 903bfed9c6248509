//! The types that a valid registry consists of.

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

/// Longest prompt plus answer in tokens if the registry does not set it (or the model's own limit, if that is less).
/// With it, a 32B and a 72B model at 4 bits fit into 128 GB together with macOS and a game.
pub(crate) const CONTEXT: u32 = 32_768;
/// Concurrent requests in the backend if the registry does not set it: memory for a whole context of KV is reserved for
/// each (8.59 GB for a 32B model). Others queue at the gate.
pub(crate) const CONCURRENCY: u32 = 1;

/// A valid registry. Paths are absolute, names are unique, ports are distinct.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// The file it was read from.
    pub file: PathBuf,
    pub paths: Paths,
    /// The Python environment of the backends.
    pub python: Python,
    /// Where the gates listen and which clients they serve.
    pub network: Network,
    /// Memory reserved for something other than models.
    pub reserves: Vec<Reserve>,
    /// What happens under memory pressure, and what the models yield to.
    pub pressure: PressureSettings,
    /// What happens on battery and in low power mode.
    pub power: Power,
    /// The launchd agent (systemd user unit on Linux).
    pub agent: Agent,
    /// How the owner is notified of important events.
    pub notify: Notify,
    pub metrics: Metrics,
    pub page: Page,
    /// Port of the shared address of all models, on [`Network::host`]; `None` if there is none.
    pub router: Option<u16>,
    /// The models, in the file's order.
    pub models: Vec<Model>,
    /// Where in the file each value is; ignored when registries are compared.
    pub written: Written,
}

/// Where things are on disk; all absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The folder that contains everything else unless set otherwise.
    pub root: PathBuf,
    pub venv: PathBuf,
    /// Log files: one `NAME.log` per model, `mlxctl.log` for the supervisor.
    pub logs: PathBuf,
    /// Sockets, locks and the records of live backends (mode 0700).
    pub run: PathBuf,
    /// What survives a reboot: learned values, keys, events.
    pub state: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// The interpreter to create the venv with, instead of the one found automatically.
    pub interpreter: Option<PathBuf>,
    /// Pinned requirements, without the platform's MLX, which is always added.
    pub packages: Vec<String>,
}

/// The gates' addresses and their allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The address that every gate listens on; while it is missing, loopback.
    pub host: IpAddr,
    /// Networks whose clients are served; if empty, every client that reaches the address.
    pub allow_from: Vec<IpNet>,
    /// Browser origins that get CORS headers; if empty, none.
    pub allow_origins: Vec<String>,
    /// Host names, besides the address itself, that a request may name.
    pub allow_hosts: Vec<String>,
    /// Whether clients need a bearer key.
    pub require_key: bool,
}

/// Memory reserved for something other than a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    /// For people: "macOS + apps", "Civ V".
    pub name: String,
    pub size: Bytes,
    /// Counted only while a program with one of these names runs; if empty, always.
    pub while_running: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub label: String,
    pub process_type: ProcessType,
    /// launchd's `Nice`, −20 to 20; higher values yield more.
    pub nice: i8,
    pub low_priority_io: bool,
    /// The variable `PATH` of the agent.
    pub path: String,
    pub working_directory: PathBuf,
    /// launchd's `StandardOutPath` and `StandardErrorPath`, one file.
    pub log: PathBuf,
    /// `ExitTimeOut`: how long launchd waits between SIGTERM and SIGKILL.
    pub exit_timeout: Duration,
    /// `ThrottleInterval`: minimum time between two starts; whole seconds, 1 or more.
    pub throttle_interval: Duration,
    /// `SoftResourceLimits` `NumberOfFiles`, 256 to 1 048 576.
    pub open_files: u64,
    /// `EnvironmentVariables` besides `PATH`, in the file's order; names are unique.
    pub environment: Vec<(String, String)>,
}

/// Where metrics are served, besides the control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// A separate listener that answers `GET /metrics` and nothing else.
    pub address: Option<SocketAddr>,
}

/// Where the page for browsers is served.
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
    /// The tiny model that mlxctl creates itself: `builtin:tiny`.
    Tiny,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Unique together with all aliases, ignoring case: `32b`.
    pub name: String,
    pub source: Source,
    /// Its other names, unique across all models.
    pub aliases: Vec<String>,
    /// Values for requests that use some of those names.
    pub presets: Vec<Preset>,
    /// Repositories that `mlxctl use` can switch to.
    pub alternatives: Vec<String>,
    /// The gate's port, 1 to 65535, unique.
    pub port: u16,
    pub start: Start,
    /// When an always-on model is up, in local time; `None` for always.
    pub hours: Option<Hours>,
    /// Declared size in memory, used until the files can be read.
    pub size: Option<Bytes>,
    /// Expected speed in tokens per second, > 0.
    pub target: Option<f64>,
    /// The machines that it is spread across; `None` for this one alone.
    pub cluster: Option<Cluster>,
    /// Variables for its backend, besides those of the agent; names are unique.
    pub environment: Vec<(String, String)>,
    pub server: ServerOptions,
    /// Bounds that determine how much memory is reserved.
    pub memory: ModelMemory,
    /// When it counts as loaded, hung or dead.
    pub health: Health,
    pub restart: Restart,
    pub stop: Stop,
    /// What one client, or all of them together, may ask of the gate.
    pub limits: Limits,
}

/// Values for requests that use this alias and do not set them.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    pub name: String,
    pub set: Sampling,
}

impl Sampling {
    /// The values that are set, with the names that requests use for them.
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
