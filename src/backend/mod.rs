//! The Python process that serves one model.

pub mod assess;
pub mod client;
pub mod diagnose;
pub mod exec;
pub mod group;
pub mod launch;
pub mod launcher;
pub mod link;
pub mod logs;
pub mod probe;
pub mod record;
pub mod spec;
pub mod trial;
pub mod watchdog;
pub mod weights;

/// The header that carries a run's secret to its launcher.
pub const SECRET_HEADER: &str = "x-mlxctl-secret";

/// The hidden first argument of a conductor: our own binary as the backend of a model on several machines.
pub const CONDUCT: &str = "__conduct";
