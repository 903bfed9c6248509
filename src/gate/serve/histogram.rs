//! Durations in a few fixed buckets, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets for time to first token, in seconds: from a cached prompt to a long one on a laptop.
pub(crate) const TTFT: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Upper bounds of the buckets for the time between two tokens, in seconds: from 1000 tok/s down to 0.5 tok/s.
pub(crate) const PER_TOKEN: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0];

/// Counts of durations. A reader may briefly see a count without its sum.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One more than `bounds`: the last one is for durations above all of them.
    counts: Vec<AtomicU64>,
    nanoseconds: AtomicU64,
}

/// A snapshot of a histogram, with cumulative buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// Upper bounds in seconds, and how many durations were not above each.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    /// Sum of all durations in seconds.
    pub sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
        }
    }

    pub(super) fn add(&self, each: Duration, times: u64) {
        let seconds = each.as_secs_f64();
        let place = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(times, Relaxed);
        }
        let nanoseconds = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX).saturating_mul(times);
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    pub(super) fn counted(&self) -> Counted {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (bound, here) in self.bounds.iter().zip(&self.counts) {
            count += here.load(Relaxed);
            buckets.push((*bound, count));
        }
        count += self.counts.last().map_or(0, |rest| rest.load(Relaxed));
        Counted { buckets, count, sum: Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_the_count_includes_what_is_above_them() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        histogram.add(Duration::from_millis(100), 1);
        histogram.add(Duration::from_millis(101), 2);
        histogram.add(Duration::from_secs(5), 1);
        let counted = histogram.counted();
        assert_eq!(counted.buckets, [(0.1, 1), (1.0, 3)]);
        assert_eq!(counted.count, 4);
        assert!((counted.sum - 5.302).abs() < 1e-9, "{counted:?}");
    }
}
