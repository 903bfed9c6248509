//! Listeners, connections, and the path of a request from a connection to the backend.

pub(super) mod access_log;
pub(super) mod bodies;
pub(super) mod connection;
pub(super) mod crowd;
pub(super) mod door;
pub(super) mod exchange;
pub(super) mod handle;
pub(super) mod histogram;
pub(super) mod intake;
pub(super) mod lease;
pub(super) mod listen;
pub(super) mod outcome;
pub(super) mod queue;
pub(super) mod record;
pub(super) mod relay;
pub(super) mod router;
pub(super) mod shared;
pub(super) mod traffic;
pub(super) mod wait;
