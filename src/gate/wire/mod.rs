//! Bytes: what a client and a backend send and are sent.

pub mod backend;
pub mod chunks;
pub mod client;
pub mod events;
pub mod head;
pub mod refusal;
pub mod reply;
pub mod stream;
