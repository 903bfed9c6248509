//! The control API: its documents, the path of its socket, and the client. HTTP + JSON over a Unix socket in a 0700
//! folder, so `curl --unix-socket` works.

pub(crate) mod client;
mod commands;
pub(crate) mod http;
pub(crate) mod paths;
mod status;
mod traffic;

pub use commands::{
    ApiError, Change, ChangeKind, CommandDone, ErrorCode, EventRecord, Events, Line, Progress, Reloaded,
    StartRequest, StopRequest,
};
pub(crate) use commands::{HandedOver, HandoverRequest, ReloadRequest, SCHEMA_HEADER};
pub use status::{
    BudgetStatus, HealthStatus, HostStatus, ModelMemoryStatus, ModelStatus, SCHEMA, StateName, Status,
    StoreFacts, SupervisorStatus,
};
pub(crate) use status::{GateStatus, HeldBack, RankState, RankStatus, ReserveStatus, RouterStatus};
pub(crate) use traffic::{Counts, KeyUsage, TrafficStatus};
