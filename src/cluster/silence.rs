//! Decides when silence counts as death. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The silence of one peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silence {
    heard: Instant,
    looked: Instant,
    limit: Duration,
    every: Duration,
}

impl Silence {
    /// Starts at `now`; [`too_long`](Self::too_long) must be called about once per `every`.
    pub(crate) fn new(now: Instant, limit: Duration, every: Duration) -> Self {
        Self { heard: now, looked: now, limit, every }
    }

    /// Records a sign of life.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Whether the silence exceeds the limit. Time in which this was not called does not count (we were suspended, or
    /// the machine was busy), because signs from that time may still be unread.
    pub(crate) fn too_long(&mut self, now: Instant) -> bool {
        let away = now.saturating_duration_since(self.looked).saturating_sub(self.every * 2);
        self.looked = now;
        self.heard = (self.heard + away).min(now);
        now.saturating_duration_since(self.heard) > self.limit
    }

    /// Time since the last sign of life.
    pub(crate) fn length(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_is_death_after_its_limit_and_no_time_counts_in_which_nobody_listened() {
        let start = Instant::now();
        let at = |seconds: u32| start + SECOND * seconds;
        let mut silence = Silence::new(start, SECOND * 5, SECOND);
        assert!((1..=5).all(|second| !silence.too_long(at(second))));
        assert!(silence.too_long(at(6)));
        silence.heard(at(6));
        assert!(!silence.too_long(at(100)), "stopped for 94 s");
        assert!((101..=103).all(|second| !silence.too_long(at(second))));
        assert!((104..=108).any(|second| silence.too_long(at(second))));
    }
}
