//! What is on disk.

pub(in crate::supervisor) mod checkpoint;
mod checkpoints;
pub(in crate::supervisor) mod journal;
pub(in crate::supervisor) mod lock;

pub use journal::Journal;
pub use lock::LockError;
