//! What travels between the supervisor and those who ask it: the documents, the socket's place, and the client.
//! HTTP + JSON over a Unix socket in a 0700 folder; `curl --unix-socket` can speak it.

pub mod client;
mod commands;
pub(crate) mod http;
pub mod paths;
mod status;

pub use commands::{
    ApiError, Change, ChangeKind, CommandDone, ErrorCode, EventRecord, Events, HandedOver, HandoverRequest,
    Line, Progress, ReloadRequest, Reloaded, SCHEMA_HEADER, StartRequest, StopRequest,
};
pub use status::{
    BudgetStatus, Counts, GateStatus, HealthStatus, HeldBack, HostStatus, KeyUsage, ModelMemoryStatus,
    ModelStatus, RankState, RankStatus, ReserveStatus, RouterStatus, SCHEMA, StateName, Status, StoreFacts,
    SupervisorStatus, TrafficStatus,
};
