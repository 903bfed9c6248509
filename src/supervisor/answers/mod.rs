//! What is asked of the supervisor, and what it shows of itself.

pub mod absent;
pub(in crate::supervisor) mod changes;
mod commands;
pub(in crate::supervisor) mod notices;
pub(in crate::supervisor) mod status;

pub use status::host_status;
