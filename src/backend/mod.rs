//! The Python process that serves one model.

pub mod assess;
pub mod client;
pub mod diagnose;
pub mod exec;
pub mod launch;
pub mod link;
pub mod logs;
pub mod probe;
pub mod record;
pub mod spec;
pub mod trial;
pub mod watchdog;
pub mod weights;

/// The launcher's text; the supervisor writes it to `<run>/launcher.py`.
pub const LAUNCHER: &str = include_str!("launcher.py");
