//! When silence is death. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Watches one other end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silence {
    heard: Instant,
    looked: Instant,
    limit: Duration,
    every: Duration,
}

impl Silence {
    /// From now on; it is looked at about once in `every`.
    pub(crate) fn new(now: Instant, limit: Duration, every: Duration) -> Self {
        Self { heard: now, looked: now, limit, every }
    }

    /// The other end lives.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Whether nothing was heard for too long. Time in which we did not look does not count (we were stopped, or the
    /// machine was busy): what was said meanwhile may still wait to be read.
    pub(crate) fn too_long(&mut self, now: Instant) -> bool {
        let away = now.saturating_duration_since(self.looked).saturating_sub(self.every * 2);
        self.looked = now;
        self.heard = (self.heard + away).min(now);
        now.saturating_duration_since(self.heard) > self.limit
    }

    /// How long nothing was heard.
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
