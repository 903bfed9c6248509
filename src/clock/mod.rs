//! Time: moments on a clock that never jumps, and the beats that periodic work shares.

pub(crate) mod beat;
pub(crate) mod hours;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on a clock that never jumps and keeps running during sleep, as a time since boot.
///
/// Linux: `CLOCK_BOOTTIME`; macOS: `CLOCK_MONOTONIC_RAW`, which counts sleep there (clock_gettime(3)), unlike
/// `std::time::Instant` (`CLOCK_UPTIME_RAW`). macOS's `CLOCK_MONOTONIC` counts it too, but is the wall clock minus the
/// boot time and slewed with it; it would drift against the clock that stops, and the drift would look like sleep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub Duration);

impl Moment {
    /// The moment `wait` later; saturates.
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// The time since `earlier`, zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
