//! Requests and answers of commands on the control socket, and events. Keys are stable, as in [`super::status`].

use serde::{Deserialize, Serialize};

use super::status::{ModelStatus, StateName};

/// A header of every answer; its value is the server's [`super::SCHEMA`].
pub(crate) const SCHEMA_HEADER: &str = "x-mlxctl-schema";

/// One line of `mlxctl events --json` and of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Increases by one per event, across supervisors.
    pub seq: u64,
    /// Wall-clock time, RFC 3339 in UTC.
    pub at: String,
    /// The model it is about; null: the supervisor.
    pub model: Option<String>,
    /// `spawned`, `ready`, `crashed`, `restart`, `refused`, `stopped`, `adopted`, `reloaded`, …
    pub kind: String,
    /// One sentence that includes the reason.
    pub text: String,
    /// What to do about it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StartRequest {
    /// Whether to start despite a refusal.
    pub force: bool,
    /// Whether the answer waits until the model is ready.
    pub wait: bool,
    /// Longest time until the answer, seconds; null for no limit.
    pub timeout_seconds: Option<f64>,
    /// Seconds above 0 after which it is stopped, counted from ready. Manual models only. Not sent if unused, because
    /// older supervisors refuse unknown fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<f64>,
}

/// Body of `POST /v1/models/{name}/stop` and `/restart`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// Whether to skip the drain: requests in flight are cut off.
    pub now: bool,
    /// Longest drain, seconds; null for the registry's.
    pub timeout_seconds: Option<f64>,
}

/// The outcome of a command that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandDone {
    /// The model's status after the command.
    pub model: ModelStatus,
    /// Whether there was anything to do.
    pub changed: bool,
    /// One sentence: "stopped 32b: group gone, port 8800's backend port free, 18.9 GB back".
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub state: StateName,
    /// What is happening: "reading weights, 12.3 GB of 40.9 GB".
    pub text: String,
    /// Progress of loading, 0 to 1.
    pub fraction: Option<f64>,
    /// Seconds since the command's work began, which may be before this request.
    pub elapsed_seconds: f64,
}

/// One line of the answer to `start`, `stop` and `restart`: any number of `progress`, then one of the others. Blank
/// lines in between show that the supervisor is alive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and none is kept")]
pub enum Line {
    Progress(Progress),
    Done(CommandDone),
    Error(ApiError),
}

/// `GET /v1/events?after=SEQ&limit=N`: the first `limit` events after `after`; without `after`, the newest ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    pub events: Vec<EventRecord>,
    /// The `after` with which to continue.
    pub next: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReloadRequest {
    /// Whether to report changes without applying them.
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HandoverRequest {
    /// Answer once nothing is in flight, and then stay until SIGTERM for at most this many seconds: for a service
    /// manager that unloads the job next. `null`: answer and leave.
    pub hold_seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HandedOver {
    /// Nothing is in flight, and the supervisor waits for SIGTERM. Absent from older ones, which leave at once.
    pub holds: bool,
}

/// What a reload changes, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// One per model, and one each for `[router]` and other listeners that change.
    pub changes: Vec<Change>,
    /// Whether the changes were applied; `false` after a dry run.
    pub applied: bool,
}

/// What a reload changes for one model, or for a listener that belongs to none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub model: String,
    pub change: ChangeKind,
    /// Which settings, and the effect on a running model.
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Added,
    /// It is no longer in the registry.
    Removed,
    Changed,
    Unchanged,
}

/// Why a command was not done, with its exit code for the command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The registry has no model of that name.
    UnknownModel,
    /// Not now: memory, pressure, or the supervisor is ending.
    Refused,
    Failed,
    /// Not done in time; it may still happen.
    Timeout,
    BadRequest,
    NotRunning,
}
