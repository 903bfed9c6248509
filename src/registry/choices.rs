//! Values that are written as one of a few words.

use serde::{Deserialize, Serialize};

use super::keys::table::{Words, words};

words! {
    pub enum Start {
        /// Starts with the supervisor and is restarted after a crash.
        Always = "always",
        /// Starts only on request, by `mlxctl start` or on the page.
        Manual = "manual",
    }

    /// What happens while power is short, from mild to strict.
    #[derive(Default)]
    pub enum PowerChoice {
        #[default]
        Serve = "serve",
        /// Manual models are started only with `--force`.
        RefuseManual = "refuse_manual",
        /// In addition, running ones are drained and stopped at its beginning.
        StopManual = "stop_manual",
    }

    /// Events that the owner may be notified of.
    pub enum NotifyKind {
        /// An always-on model is down until someone acts, or is quarantined.
        Failed = "failed",
        /// A start was refused: no memory, no files, a rule of `[power]`.
        Refused = "refused",
        /// The machine restarted after a kernel panic.
        Panic = "panic",
        /// The supervisor cannot write to the disk.
        Disk = "disk",
        /// A bearer key was revoked.
        KeyRevoked = "key-revoked",
    }

    /// launchd's `ProcessType`, launchd.plist(5).
    pub enum ProcessType {
        /// Low CPU and IO priority at all times (`DARWIN_BG`); backends inherit it, and it cannot be lifted for one of
        /// them.
        Background = "Background",
        /// launchd's default.
        Standard = "Standard",
        /// Background unless boosted over XPC.
        Adaptive = "Adaptive",
        /// The same limits as an application: none.
        Interactive = "Interactive",
    }

    /// What is done while a program runs that the models yield to.
    pub enum YieldAction {
        Trim = "trim",
        LowerPriority = "lower_priority",
        /// Manual models are started only with `--force`.
        RefuseManual = "refuse_manual",
        /// Manual models are drained and stopped, and do not come back by themselves.
        StopManual = "stop_manual",
        /// New requests wait; those in progress finish.
        Hold = "hold",
    }

    /// How much of a backend's memory MLX pins for the GPU (`mx.set_wired_limit`); without Metal there is nothing to pin.
    #[derive(Default)]
    pub enum Wired {
        /// Nothing. The kernel panics reported under load (mlx 3186, mlx-lm 1666) need pinned memory.
        Off = "off",
        /// As much as the weights take, set once.
        Weights = "weights",
        /// As `mlx_lm.server` does it: up to the recommended working set, set again for each batch. Backends whose spec
        /// predates this choice do the same.
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
        /// Whatever the installed MPI uses for transport.
        Mpi = "mpi",
    }

    pub enum ClusterMode {
        /// Every layer is split across all ranks.
        Tensor = "tensor",
        /// Every rank has some of the layers (`mlx_lm.server --pipeline`).
        Pipeline = "pipeline",
    }
}
