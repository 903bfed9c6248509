//! What is written as one of a few words.

use serde::{Deserialize, Serialize};

use super::keys::table::{Words, words};

words! {
    /// When a model is started.
    pub enum Start {
        /// Comes up with the supervisor and comes back after a crash.
        Always = "always",
        /// Only ever through `mlxctl start`.
        Manual = "manual",
    }

    /// From the mildest to the strictest.
    #[derive(Default)]
    pub enum PowerChoice {
        /// Nothing changes.
        #[default]
        Serve = "serve",
        /// No manual model is started, unless `--force` says so.
        RefuseManual = "refuse_manual",
        /// And those that run are drained and stopped when it begins.
        StopManual = "stop_manual",
    }

    /// What the owner may be told of.
    pub enum NotifyKind {
        /// An always-on model is down until somebody acts, or is quarantined.
        Failed = "failed",
        /// A start was refused: no memory, no files, a rule of `[power]`.
        Refused = "refused",
        /// The machine came up from a kernel panic.
        Panic = "panic",
        /// The disk does not take what the supervisor writes.
        Disk = "disk",
        /// A key was taken away.
        KeyRevoked = "key-revoked",
    }

    /// launchd's `ProcessType`, launchd.plist(5).
    pub enum ProcessType {
        /// Low CPU and IO priority, always (`DARWIN_BG`); backends inherit it, and nothing lifts it from one of them.
        Background = "Background",
        /// launchd's default.
        Standard = "Standard",
        /// Background unless boosted over XPC.
        Adaptive = "Adaptive",
        /// As an application.
        Interactive = "Interactive",
    }

    /// What is done for a program that the models yield to.
    pub enum YieldAction {
        /// Cached memory is released.
        Trim = "trim",
        /// Backends run behind everything else.
        LowerPriority = "lower_priority",
        /// Manual models are not started without `--force`.
        RefuseManual = "refuse_manual",
        /// Manual models are drained and stopped. They do not come back by themselves.
        StopManual = "stop_manual",
        /// Requests wait in line; those under way finish.
        Hold = "hold",
    }

    /// How much of a backend's memory MLX pins for the GPU (`mx.set_wired_limit`); without Metal there is nothing to pin.
    #[derive(Default)]
    pub enum Wired {
        /// None. The kernel panics that were reported under load (mlx 3186, mlx-lm 1666) need pinned memory.
        Off = "off",
        /// As much as the weights take, set once and left alone.
        Weights = "weights",
        /// As `mlx_lm.server` does it: up to the recommended working set, set anew for each batch. Also what a backend
        /// does whose spec was written before there was a choice.
        #[default]
        Default = "default",
    }

    /// `mlx_lm.server --log-level`, the levels of Python's `logging`.
    pub enum LogLevel {
        Debug = "DEBUG",
        Info = "INFO",
        Warning = "WARNING",
        Error = "ERROR",
        Critical = "CRITICAL",
    }

    /// How the ranks talk: `mlx.launch --backend`.
    pub enum ClusterBackend {
        /// TCP from each rank to the next.
        Ring = "ring",
        /// RDMA over Thunderbolt, every host cabled to every other.
        Jaccl = "jaccl",
        /// Whatever the installed MPI does.
        Mpi = "mpi",
    }

    /// How a model is divided.
    pub enum ClusterMode {
        /// Every layer is divided over all ranks.
        Tensor = "tensor",
        /// Every rank has some of the layers (`mlx_lm.server --pipeline`).
        Pipeline = "pipeline",
    }
}
