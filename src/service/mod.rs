//! The launchd agent and the systemd user unit.

pub mod agent;
pub mod difference;
pub mod launchctl;
pub mod launchd;
pub mod notify;
pub mod systemd;
