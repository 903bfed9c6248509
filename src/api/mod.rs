//! What travels between the supervisor and those who ask it: the documents, the socket's place, and the client.
//! HTTP + JSON over a Unix socket in a 0700 folder; `curl --unix-socket` can speak it.

pub mod client;
mod documents;
pub(crate) mod http;
pub mod paths;

pub use documents::{
    ApiError, BudgetStatus, Change, ChangeKind, CommandDone, Counts, ErrorCode, EventRecord, Events,
    GateStatus, HandedOver, HandoverRequest, HealthStatus, HeldBack, HostStatus, KeyUsage, Line,
    ModelMemoryStatus, ModelStatus, Progress, RankState, RankStatus, ReloadRequest, Reloaded, ReserveStatus,
    RouterStatus, SCHEMA, SCHEMA_HEADER, StartRequest, StateName, Status, StopRequest, StoreFacts,
    SupervisorStatus, TrafficStatus,
};
