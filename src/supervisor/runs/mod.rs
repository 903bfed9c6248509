//! The processes of backends, and the front doors before them.

pub(in crate::supervisor) mod adoption;
pub(in crate::supervisor) mod awake;
pub(in crate::supervisor) mod exits;
mod idle;
mod logs;
mod orphans;
pub(in crate::supervisor) mod router;
pub(in crate::supervisor) mod slot;
pub(in crate::supervisor) mod used;

pub use orphans::{Orphans, running};
