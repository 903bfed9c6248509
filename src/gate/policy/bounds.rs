//! Limits on connections that apply before anything is known of their requests.

use std::time::Duration;

use super::contract::GateConfig;

/// How long a connection may stay open without a request.
pub(crate) const IDLE: Duration = Duration::from_secs(75);
/// The same when three quarters of the places are taken.
pub(crate) const IDLE_WHEN_CROWDED: Duration = Duration::from_secs(5);

/// Limits that apply until it is known which gate a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Maximum number of connections at once.
    pub connections: u32,
    /// For a head, and for a body that arrives slowly.
    pub read_timeout: Duration,
    /// Maximum size of a body, in bytes.
    pub body: u64,
}

impl Bounds {
    pub(crate) fn of(config: &GateConfig) -> Self {
        let limits = &config.limits;
        Self { connections: limits.connections, read_timeout: limits.read_timeout, body: limits.body.0 }
    }
}

/// How many of the `places` one address may have: others find room whatever it does.
pub(crate) fn share(places: usize) -> usize {
    places - places / 4
}

/// How long a connection may stay open without a request when `taken` of the `places` are in use.
pub(crate) fn idle(taken: usize, places: usize) -> Duration {
    if taken >= share(places) { IDLE_WHEN_CROWDED } else { IDLE }
}
