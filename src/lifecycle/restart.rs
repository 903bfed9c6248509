//! How long a failed model stays down: exponential backoff with jitter, forgiveness, quarantine.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;
use crate::registry::Restart;

/// A model's failures that still count towards backoff and quarantine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Failures {
    /// Failures in a row, without a stable run in between.
    in_a_row: u32,
    /// The times of the failures within the policy's window.
    recent: VecDeque<Moment>,
}

/// How long a model stays down after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    pub delay: Duration,
    /// Failures in a row; 0 after a stable run.
    pub attempt: u32,
    /// Whether it failed so often that it is not restarted for the whole window.
    pub quarantined: bool,
}

impl Failures {
    /// Forgets all failures, after a stable run or a person's command.
    pub(super) fn forgive(&mut self) {
        *self = Self::default();
    }

    /// How long to wait after a failure that is not the model's fault, such as lack of memory or a missing venv. Does not
    /// count towards the quarantine.
    pub(super) fn wait_out(&mut self, policy: &Restart, dice: u64) -> Wait {
        self.in_a_row = self.in_a_row.saturating_add(1);
        Wait { delay: backoff(self.in_a_row, policy, dice), attempt: self.in_a_row, quarantined: false }
    }

    /// Counts a failure of a run that was ready for `ready`; returns how long to wait.
    ///
    /// A stable run (`ready` ≥ `stable_after`) clears earlier failures, and its restart is immediate. Otherwise the wait is
    /// `backoff_min` · 2ⁿ⁻¹ up to `backoff_max`, the last quarter of which is random, so that models that died together do
    /// not load together. `dice` is any number; its low 16 bits are used.
    pub(super) fn count(&mut self, now: Moment, ready: Duration, policy: &Restart, dice: u64) -> Wait {
        if ready >= policy.stable_after {
            self.forgive();
            return Wait { delay: Duration::ZERO, attempt: 0, quarantined: false };
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|first| now.since(*first) > policy.window) {
            self.recent.pop_front();
        }
        let attempt = self.in_a_row;
        if self.recent.len() >= policy.max_crashes.max(1) as usize {
            self.recent.clear();
            return Wait { delay: policy.window, attempt, quarantined: true };
        }
        Wait { delay: backoff(attempt, policy, dice), attempt, quarantined: false }
    }
}

/// The wait after failure number `attempt`, at least 1.
fn backoff(attempt: u32, policy: &Restart, dice: u64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let full = policy.backoff_min.saturating_mul(1 << doublings).min(policy.backoff_max);
    let quarter = full / 4;
    let jitter = quarter.mul_f64(f64::from(u16::try_from(dice & 0xffff).unwrap_or(0)) / 65_536.0);
    full - quarter + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Restart {
        Restart {
            enabled: true,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(8),
            stable_after: Duration::from_secs(60),
            max_crashes: 6,
            window: Duration::from_secs(600),
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn the_first_restart_after_a_stable_run_is_immediate() {
        let mut failures = Failures::default();
        failures.count(at(1), Duration::ZERO, &policy(), 7);
        let wait = failures.count(at(100), Duration::from_secs(60), &policy(), 7);
        assert_eq!(wait, Wait { delay: Duration::ZERO, attempt: 0, quarantined: false });
        assert_eq!(failures, Failures::default());
    }

    #[test]
    fn waits_double_up_to_the_limit_and_keep_three_quarters_whatever_the_dice() {
        for dice in [0, 1, 0xffff, u64::MAX] {
            let mut failures = Failures::default();
            for expected in [1.0, 2.0, 4.0, 8.0, 8.0] {
                let wait = failures.count(at(0), Duration::ZERO, &policy(), dice).delay.as_secs_f64();
                assert!((0.75 * expected..=expected).contains(&wait), "{wait} for {expected}");
            }
        }
    }

    #[test]
    fn a_model_that_fails_too_often_is_quarantined_for_the_window() {
        let mut failures = Failures::default();
        let waits: Vec<_> = (0..7).map(|n| failures.count(at(n), Duration::ZERO, &policy(), 0)).collect();
        assert!(waits[..5].iter().all(|wait| !wait.quarantined));
        assert_eq!(waits[5], Wait { delay: policy().window, attempt: 6, quarantined: true });
        assert!(!waits[6].quarantined, "after the quarantine the count starts again");
    }

    #[test]
    fn failures_far_apart_never_add_up_to_a_quarantine() {
        let mut failures = Failures::default();
        for n in 0..50 {
            assert!(!failures.count(at(n * 601), Duration::ZERO, &policy(), 0).quarantined);
        }
    }
}
