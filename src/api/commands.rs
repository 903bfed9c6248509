//! What commands send over the control socket, what comes of them, and the events. Keys are promises, as in
//! [`super::status`].

use serde::{Deserialize, Serialize};

use super::status::{ModelStatus, StateName};

/// The header of every answer; its value is the server's [`super::SCHEMA`].
pub(crate) const SCHEMA_HEADER: &str = "x-mlxctl-schema";

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
    Progress(Progress),
    Done(CommandDone),
    Error(ApiError),
}

/// `GET /v1/events?after=SEQ&limit=N`: the first `limit` events after `after`; without `after`, the newest ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<EventRecord>,
    /// What to give as `after` to go on from here.
    pub next: u64,
}

/// Body of `POST /v1/reload`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReloadRequest {
    /// Only say what would change.
    pub dry_run: bool,
}

/// Body of `POST /v1/handover`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HandoverRequest {
    /// Answer once nothing is in flight any more, and then stay until SIGTERM, so many seconds at most: for a service
    /// manager that unloads the job next. `null`: answer and leave.
    pub hold_seconds: Option<f64>,
}

/// Answer of `POST /v1/handover`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HandedOver {
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
    pub model: String,
    pub change: ChangeKind,
    /// Which settings, and what happens to the run.
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Added,
    /// It is no longer in the registry.
    Removed,
    /// Some setting is another.
    Changed,
    Unchanged,
}

/// Why a command was not done, with its exit code for the command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiError {
    /// `unknown_model`, `refused`, `busy`, `failed`, `timeout`, `bad_request`, `shutting_down`.
    pub code: ErrorCode,
    pub message: String,
    pub hint: Option<String>,
}

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
    BadRequest,
    /// The model is not running.
    NotRunning,
}
