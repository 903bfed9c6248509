//! What connections are held to before anything is known of their requests.

use std::time::Duration;

use super::contract::GateConfig;

/// How long a connection may stay open without a request.
pub(crate) const IDLE: Duration = Duration::from_secs(75);
/// The same where three quarters of the places are taken.
pub(crate) const IDLE_WHEN_CROWDED: Duration = Duration::from_secs(5);

/// What holds a connection in bounds until it is known which gate a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Connections at once.
    pub connections: u32,
    /// For a head, and for a body that comes slowly.
    pub read_timeout: Duration,
    /// Bytes of a body.
    pub body: u64,
}

impl Bounds {
    /// Of one gate.
    pub(crate) fn of(config: &GateConfig) -> Self {
        let limits = &config.limits;
        Self { connections: limits.connections, read_timeout: limits.read_timeout, body: limits.body.0 }
    }
}

/// Of so many places one address may have these: others find room whatever it does.
pub(crate) fn share(places: usize) -> usize {
    places - places / 4
}

/// How long a connection may stay open without a request, where `taken` of the `places` are.
pub(crate) fn idle(taken: usize, places: usize) -> Duration {
    if taken >= share(places) { IDLE_WHEN_CROWDED } else { IDLE }
}
