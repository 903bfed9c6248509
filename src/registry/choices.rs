//! What is written as one of a few words.

use super::keys::table::{Words, words};

/// When a model is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Comes up with the supervisor and comes back after a crash.
    Always,
    /// Only ever through `mlxctl start`.
    Manual,
}
words!(Start { Always = "always", Manual = "manual" });

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
words!(PowerChoice { Serve = "serve", RefuseManual = "refuse_manual", StopManual = "stop_manual" });

/// What the owner may be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyKind {
    /// An always-on model is down until a person acts, or is quarantined.
    Failed,
    /// A start was refused: no memory, no files, a rule of `[power]`.
    Refused,
    /// The machine came up from a kernel panic.
    Panic,
    /// The disk does not take what the supervisor writes.
    Disk,
    /// A key was taken away.
    KeyRevoked,
}
words!(NotifyKind {
    Failed = "failed",
    Refused = "refused",
    Panic = "panic",
    Disk = "disk",
    KeyRevoked = "key-revoked",
});

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
words!(ProcessType {
    Background = "Background",
    Standard = "Standard",
    Adaptive = "Adaptive",
    Interactive = "Interactive",
});

/// What is done for a program that the models yield to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum YieldAction {
    /// Cached memory is released.
    Trim,
    /// Backends run behind everything else.
    LowerPriority,
    /// Manual models are not started without `--force`.
    RefuseManual,
    /// Manual models are drained and stopped. They do not come back by themselves.
    StopManual,
    /// Requests wait in line; what is under way finishes.
    Hold,
}
words!(YieldAction {
    Trim = "trim",
    LowerPriority = "lower_priority",
    RefuseManual = "refuse_manual",
    StopManual = "stop_manual",
    Hold = "hold",
});

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
words!(Wired { Off = "off", Weights = "weights", Default = "default" });

/// `mlx_lm.server --log-level`, the levels of Python's `logging`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}
words!(LogLevel {
    Debug = "DEBUG",
    Info = "INFO",
    Warning = "WARNING",
    Error = "ERROR",
    Critical = "CRITICAL",
});

/// How the ranks talk: `mlx.launch --backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterBackend {
    /// TCP from each rank to the next.
    Ring,
    /// RDMA over Thunderbolt, every host cabled to every other.
    Jaccl,
    /// Whatever the installed MPI does.
    Mpi,
}
words!(ClusterBackend { Ring = "ring", Jaccl = "jaccl", Mpi = "mpi" });

/// How a model is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterMode {
    /// Every layer is divided over all ranks.
    Tensor,
    /// Every rank has some of the layers (`mlx_lm.server --pipeline`).
    Pipeline,
}
words!(ClusterMode { Tensor = "tensor", Pipeline = "pipeline" });
