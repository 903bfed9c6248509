//! Distinguishes a backend that makes no progress from one that is slow. Pure.

use std::time::Duration;

use crate::clock::Moment;
use crate::lifecycle::{Failure, FailureKind};
use crate::registry::Health;

/// Share of one core up to which a process counts as idle. An idle `mlx_lm.server` polls its queue with 0.14 % of a core
/// (measured, 81 ms per minute); one that generates keeps a core busy feeding the GPU.
const IDLE_SHARE: f64 = 0.01;

/// The state of a backend at one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    /// On the clock that stops while the machine sleeps, since a backend cannot make progress then.
    pub now: Moment,
    /// Requests in flight at the backend.
    pub in_flight: u32,
    /// Changes whenever a byte of an answer comes from it, keep-alive comments included.
    pub mark: u64,
    /// CPU time used so far; `None`: not known.
    pub cpu: Option<Duration>,
    /// Whether `/health` answered within `health.timeout`.
    pub answered: bool,
}

/// Remembers the last sign of progress.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchdog {
    last: Option<Observation>,
    progress: Option<Moment>,
}

impl Watchdog {
    /// Records an observation. Returns a failure if for `hang_after` there was work to do and none was done.
    ///
    /// Work to do: a request in flight, or a check that is not answered. Work done: bytes came, the number of requests
    /// changed, or the process used more than 1 % of a core since the last check. An answered check is progress only
    /// while nothing is in flight, since the server's HTTP threads live on when the GPU hangs (mlx-lm 1493).
    pub(crate) fn observe(&mut self, seen: Observation, health: &Health) -> Option<Failure> {
        let worked = self.last.is_none_or(|last| {
            let elapsed = seen.now.since(last.now).as_secs_f64();
            let used = match (seen.cpu, last.cpu) {
                (Some(now), Some(before)) => now.saturating_sub(before).as_secs_f64(),
                _ => 0.0,
            };
            seen.mark != last.mark || used > elapsed * IDLE_SHARE || seen.in_flight != last.in_flight
        });
        let idle = seen.in_flight == 0 && seen.answered;
        self.last = Some(seen);
        if worked || idle {
            self.progress = Some(seen.now);
            return None;
        }
        let since = seen.now.since(*self.progress.get_or_insert(seen.now));
        if since < health.hang_after {
            return None;
        }
        let what = if seen.in_flight > 0 {
            format!(
                "{} in flight",
                if seen.in_flight == 1 { "1 request".into() } else { format!("{} requests", seen.in_flight) }
            )
        } else {
            "health checks not answered".to_owned()
        };
        Some(Failure::new(FailureKind::Hung, format!("hung: no progress for {} s, {what}", since.as_secs())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health {
            load_timeout: Duration::from_secs(600),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            hang_after: Duration::from_secs(60),
        }
    }

    /// Checks every ten seconds; `seen` gives the observation at each second. Returns when a hang is found.
    fn found_at(seen: impl Fn(u64) -> (u32, u64, u64, bool)) -> Option<u64> {
        let mut dog = Watchdog::default();
        (0..1000).step_by(10).find(|second| {
            let (in_flight, mark, cpu_ms, answered) = seen(*second);
            let now = Moment(Duration::from_secs(*second));
            let cpu = Some(Duration::from_millis(cpu_ms));
            dog.observe(Observation { now, in_flight, mark, cpu, answered }, &health()).is_some()
        })
    }

    #[test]
    fn a_stuck_generation_is_found_although_health_answers() {
        assert_eq!(found_at(|second| (1, 0, second, true)), Some(60));
    }

    #[test]
    fn a_long_prefill_without_a_byte_is_busy() {
        assert_eq!(found_at(|second| (1, 0, second * 500, true)), None);
        assert_eq!(found_at(|second| (1, 0, second * 500, false)), None, "even when checks are not answered");
    }

    #[test]
    fn bytes_alone_are_progress() {
        assert_eq!(found_at(|second| (1, second, 0, false)), None);
    }

    #[test]
    fn an_idle_backend_is_left_alone_and_one_that_is_stopped_is_found() {
        assert_eq!(found_at(|second| (0, 0, second, true)), None);
        assert_eq!(found_at(|_| (0, 0, 0, false)), Some(60));
    }

    #[test]
    fn the_time_runs_from_the_last_progress_and_not_from_the_request() {
        assert_eq!(found_at(|second| (1, second.min(200), 0, true)), Some(260));
    }
}
