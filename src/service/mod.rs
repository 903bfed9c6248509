//! The launchd agent and the systemd user unit.

pub(crate) mod agent;
pub(crate) mod difference;
pub(crate) mod launchctl;
pub(crate) mod launchd;
pub(crate) mod notify;
pub(crate) mod systemd;
