//! The Python process that serves one model.

pub(crate) mod assess;
pub(crate) mod client;
pub(crate) mod diagnose;
pub(crate) mod exec;
pub(crate) mod group;
pub(crate) mod launch;
pub(crate) mod launcher;
pub(crate) mod link;
pub(crate) mod logs;
pub(crate) mod probe;
pub(crate) mod record;
pub(crate) mod spec;
pub(crate) mod trial;
pub(crate) mod watchdog;
pub(crate) mod weights;

/// The header that carries a run's secret to its launcher.
pub(crate) const SECRET_HEADER: &str = "x-mlxctl-secret";

/// The hidden first argument of a conductor, our own binary as the backend of a model on several machines.
pub(crate) const CONDUCT: &str = "__conduct";
