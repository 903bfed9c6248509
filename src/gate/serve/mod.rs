//! Listeners, connections and the way of a request from one to the backend.

pub mod access_log;
pub mod connection;
pub mod crowd;
pub mod door;
pub mod exchange;
pub mod handle;
pub mod histogram;
pub mod intake;
pub mod lease;
pub mod listen;
pub mod outcome;
pub mod queue;
pub mod record;
pub mod relay;
pub mod router;
pub mod shared;
pub mod traffic;
pub mod wait;
