//! Whether a model may start, and what it may take.

pub(in crate::supervisor) mod admission;
pub(in crate::supervisor) mod files;
pub(in crate::supervisor) mod learned;
pub(in crate::supervisor) mod panics;
pub(in crate::supervisor) mod peers;
pub(in crate::supervisor) mod plan;
pub(in crate::supervisor) mod power;
mod upkeep;

pub use admission::missing;
