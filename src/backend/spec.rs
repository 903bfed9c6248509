//! What a backend is started with, and the record by which a later supervisor recognises it.
//!
//! The supervisor writes the [`Spec`] to `<run>/<model>.json` (0600) and starts its own binary as
//! `mlxctl __exec <run>/<model>.json`. That exec step makes itself a session leader, sets limits, priority and files,
//! writes the [`Record`] to `<run>/<model>.live.json` with its own pid and start time, and becomes Python:
//! `python launcher.py <run>/<model>.json <server arguments>`. So Python never runs without a record. Neither file needs
//! fsync: they only matter to the boot that wrote them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::group::Group;
use crate::clock::Moment;
use crate::host::Identity;
use crate::memory::Room;
use crate::registry::Wired;

/// The format version of both files.
pub const SCHEMA: u32 = 1;

/// Everything a backend is started with; also read by the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub schema: u32,
    pub model: String,
    /// What it serves, as the registry named it at the start; empty in files of earlier versions.
    #[serde(default)]
    pub repo: String,
    /// The number of the run, across supervisors.
    pub generation: u64,
    /// Interpreter, `launcher.py`, this file's path, the server's arguments.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    /// File for stdout and stderr, opened for appending.
    pub log: PathBuf,
    /// The launcher's Unix socket (see `docs/architecture.md`, "The link").
    pub link: PathBuf,
    /// Requests without it are answered 403.
    pub secret: String,
    /// Bound of MLX's buffer cache, bytes.
    pub cache_limit: Option<u64>,
    /// Bound of the prompt cache, bytes.
    pub prompt_cache_bytes: Option<u64>,
    /// The room that kept prompts and a prefill share; `None`: nothing is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Room>,
    /// Which memory MLX wires for the GPU.
    #[serde(default)]
    pub wired: Wired,
    /// Longest prompt plus answer, tokens, as the model's own tokenizer counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// Where kept prompts are written before they are dropped; `None`: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_store: Option<PromptStore>,
    /// Hash of the registry's settings for a run; `outdated` means that it has changed since.
    pub settings: String,
    /// Bytes that admission granted for it.
    pub reserved: u64,
    /// Added to the niceness of the supervisor.
    pub nice: i8,
    /// The ranks of a model on several machines, whose arguments are a conductor's; `None`: it has one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
}

/// The store of kept prompts on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptStore {
    /// A folder used by this model only.
    pub path: PathBuf,
    /// Most bytes it may take on disk.
    pub bytes: u64,
    /// The registry's `forget_after`, seconds: prompts used within it are read back when the backend starts.
    #[serde(default)]
    pub recent: u64,
}

/// The identity of a run, written by the exec step just before it becomes Python.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub spec: Spec,
    pub identity: Identity,
    pub boot_id: String,
    /// Wall time of the spawn, seconds since the epoch; for people only.
    pub spawned_at: u64,
    /// When it was spawned, on the clock of that boot. `None`: written before 0.1.
    #[serde(default)]
    pub spawned: Option<Moment>,
}
