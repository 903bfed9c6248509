//! Time: the moments that everything is measured in, and the beats that periodic work shares.

pub(crate) mod beat;
pub(crate) mod hours;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on a clock that never jumps and keeps running during sleep, as a time since boot.
///
/// Linux: `CLOCK_BOOTTIME`; macOS: `CLOCK_MONOTONIC_RAW`, which there counts sleep (clock_gettime(3)), unlike
/// `std::time::Instant`, which stands still (`CLOCK_UPTIME_RAW`). macOS's `CLOCK_MONOTONIC` counts it too, but is the
/// wall clock less the time of boot, and so is slewed with it; against the clock that stands still it would drift, and
/// the drift would be taken for sleep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub Duration);

impl Moment {
    /// The moment `wait` later; the end of time where that cannot be held.
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// The time from `earlier` to here, zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
