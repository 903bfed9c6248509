//! Keeps one backend below its ceiling, and releases what an idle one has cached. Pure.

use std::time::Duration;

use crate::clock::Moment;
use crate::units::Bytes;

/// Time from a trim to the next check of the footprint: memory goes back to the system with a delay.
const SETTLE: Duration = Duration::from_secs(5);

/// What to do with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Empty MLX's buffer cache, which costs the next request nothing: idle for `trim_after`.
    Trim,
    /// Drop kept prompts as well.
    Forget(Why),
    /// Restart: it is over its ceiling, trimming did not help, and nothing is in flight.
    Recycle,
}

/// Why a backend drops its kept prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Idle,
    Ceiling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    pub footprint: Bytes,
    pub in_flight: u64,
    /// When the last request ended; without one, when the backend became ready.
    pub last_request: Moment,
}

/// Settings for one backend, from the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub ceiling: Bytes,
    pub trim_after: Duration,
    pub forget_after: Duration,
}

/// State of one run of a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Upkeep {
    /// The last request before the last idle trim; only a newer request makes another trim worthwhile.
    trimmed_for: Option<Moment>,
    /// The last request before kept prompts were last dropped for idleness.
    forgot_for: Option<Moment>,
    /// When kept prompts were dropped because it exceeded its ceiling.
    over_since: Option<Moment>,
    recycled: bool,
}

impl Upkeep {
    /// Advances the state; returns at most one action.
    pub(crate) fn step(&mut self, now: Moment, backend: Now, limits: Limits) -> Option<Action> {
        if backend.footprint > limits.ceiling {
            return self.over(now, backend);
        }
        self.over_since = None;
        let last = Some(backend.last_request);
        let idle = |time| backend.in_flight == 0 && now.since(backend.last_request) >= time;
        if idle(limits.forget_after) && self.forgot_for != last {
            (self.forgot_for, self.trimmed_for) = (last, last);
            return Some(Action::Forget(Why::Idle));
        }
        if idle(limits.trim_after) && self.trimmed_for != last {
            self.trimmed_for = last;
            return Some(Action::Trim);
        }
        None
    }

    fn over(&mut self, now: Moment, backend: Now) -> Option<Action> {
        let Some(since) = self.over_since else {
            self.over_since = Some(now);
            return Some(Action::Forget(Why::Ceiling));
        };
        if self.recycled || backend.in_flight > 0 || now.since(since) < SETTLE {
            return None;
        }
        self.recycled = true;
        Some(Action::Recycle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        ceiling: Bytes::gb(40),
        trim_after: Duration::from_secs(60),
        forget_after: Duration::from_secs(1800),
    };

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn now(gb: u64, in_flight: u64, last_request: u64) -> Now {
        Now { footprint: Bytes::gb(gb), in_flight, last_request: at(last_request) }
    }

    #[test]
    fn an_idle_backend_is_trimmed_once_after_each_request() {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.step(at(59), now(30, 0, 0), LIMITS), None);
        assert_eq!(upkeep.step(at(60), now(30, 0, 0), LIMITS), Some(Action::Trim));
        assert_eq!(upkeep.step(at(600), now(30, 0, 0), LIMITS), None);
        assert_eq!(upkeep.step(at(700), now(30, 1, 650), LIMITS), None, "not while a request runs");
        assert_eq!(upkeep.step(at(800), now(30, 0, 710), LIMITS), Some(Action::Trim));
    }

    #[test]
    fn kept_prompts_are_dropped_once_after_a_long_idle_time() {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.step(at(100), now(30, 0, 0), LIMITS), Some(Action::Trim));
        assert_eq!(upkeep.step(at(1799), now(30, 0, 0), LIMITS), None, "a pause costs nothing");
        assert_eq!(upkeep.step(at(1800), now(30, 0, 0), LIMITS), Some(Action::Forget(Why::Idle)));
        assert_eq!(upkeep.step(at(9000), now(30, 0, 0), LIMITS), None, "once");
        assert_eq!(upkeep.step(at(9100), now(30, 1, 9050), LIMITS), None, "not while a request runs");
        assert_eq!(upkeep.step(at(9200), now(30, 0, 9110), LIMITS), Some(Action::Trim));
        let short = Limits { forget_after: Duration::from_secs(30), ..LIMITS };
        assert_eq!(Upkeep::default().step(at(60), now(30, 0, 0), short), Some(Action::Forget(Why::Idle)));
    }

    #[test]
    fn a_backend_over_its_ceiling_is_trimmed_then_recycled_when_idle() {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.step(at(0), now(41, 1, 0), LIMITS), Some(Action::Forget(Why::Ceiling)));
        assert_eq!(upkeep.step(at(10), now(41, 1, 0), LIMITS), None, "not while a request runs");
        assert_eq!(upkeep.step(at(11), now(41, 0, 11), LIMITS), Some(Action::Recycle));
        assert_eq!(upkeep.step(at(12), now(41, 0, 11), LIMITS), None, "once per run");
    }

    #[test]
    fn a_backend_is_not_recycled_if_the_trim_helped() {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.step(at(0), now(41, 0, 0), LIMITS), Some(Action::Forget(Why::Ceiling)));
        assert_eq!(upkeep.step(at(1), now(41, 0, 0), LIMITS), None, "memory goes back with a delay");
        assert_eq!(upkeep.step(at(6), now(39, 0, 0), LIMITS), None);
    }
}
