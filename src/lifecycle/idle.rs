//! When a model stops by itself: it has been idle for `stop.idle`, or the time of `mlxctl start --for` is over. Pure;
//! can only stop a model, never start one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::StopReason;
use crate::clock::Moment;

/// Longest time between the announcement of a stop and the stop.
const NOTICE: Duration = Duration::from_secs(15 * 60);
/// The notice when the end is noticed too late for a longer one, for example after the machine slept.
const SHORT_NOTICE: Duration = Duration::from_secs(60);

/// The time a person gave a run with `mlxctl start --for`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lent {
    /// The argument of `--for`.
    pub length: Duration,
    /// When it ends; `None` until the model is ready, when the time starts.
    pub until: Option<Moment>,
}

/// The limits on a run's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub idle: Option<Duration>,
    /// Takes precedence over `idle`.
    pub lent: Option<Lent>,
}

/// How a run is being used at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Whether a request is in flight or waits for its turn.
    pub busy: bool,
    /// When it last had a request or a command from a person.
    pub last: Moment,
}

/// What to do with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Keep,
    /// Announce that it stops after this time unless it is used.
    Warn(Duration, StopReason),
    Stop(StopReason),
}

/// What was announced for a run; one per run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Idle {
    /// The announced end, and when the stop is due: later than the end if it was announced late.
    announced: Option<(Moment, Moment)>,
}

impl Idle {
    /// Decides what to do now. A run is stopped only after a notice, and never while it is busy.
    pub(crate) fn step(&mut self, now: Moment, usage: Usage, limits: Limits) -> Decision {
        let Some((end, length, why)) = end(usage, limits) else { return Decision::Keep };
        match self.announced {
            Some((announced, due)) if announced == end => {
                if now >= due && !usage.busy {
                    Decision::Stop(why)
                } else {
                    Decision::Keep
                }
            }
            _ => {
                let notice = (length / 10).min(NOTICE);
                if end.since(now) > notice {
                    return Decision::Keep;
                }
                let due = end.max(now.after(notice.min(SHORT_NOTICE)));
                self.announced = Some((end, due));
                Decision::Warn(due.since(now), why)
            }
        }
    }

    /// When the run stops if nothing changes; `None`: it has no limit or is busy.
    pub(crate) fn due(&self, usage: Usage, limits: Limits) -> Option<Moment> {
        let (end, ..) = end(usage, limits)?;
        match self.announced {
            Some((announced, due)) if announced == end => Some(due),
            _ => Some(end),
        }
    }
}

/// The end of a run, the length of the limit that it follows from, and the reason.
fn end(usage: Usage, limits: Limits) -> Option<(Moment, Duration, StopReason)> {
    match (limits.lent, limits.idle) {
        (Some(Lent { length, until }), _) => Some((until?, length, StopReason::TimeOver(length))),
        (None, Some(idle)) if !usage.busy => Some((usage.last.after(idle), idle, StopReason::Idle(idle))),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const IDLE: Limits = Limits { idle: Some(Duration::from_secs(2 * HOUR)), lent: None };
    const IDLE_OVER: Decision = Decision::Stop(StopReason::Idle(Duration::from_secs(2 * HOUR)));

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn quiet(last: u64) -> Usage {
        Usage { busy: false, last: at(last) }
    }

    fn lent(hours: u64, until: Option<u64>) -> Limits {
        Limits {
            lent: Some(Lent { length: Duration::from_secs(hours * HOUR), until: until.map(at) }),
            ..IDLE
        }
    }

    fn warns(decision: Decision) -> Option<u64> {
        match decision {
            Decision::Warn(left, _) => Some(left.as_secs()),
            _ => None,
        }
    }

    #[test]
    fn an_idle_run_is_announced_once_and_then_stopped() {
        let mut idle = Idle::default();
        let end = 2 * HOUR;
        assert_eq!(idle.step(at(end - 721), quiet(0), IDLE), Decision::Keep);
        assert_eq!(warns(idle.step(at(end - 720), quiet(0), IDLE)), Some(720), "a tenth of the time");
        assert_eq!(idle.step(at(end - 1), quiet(0), IDLE), Decision::Keep);
        assert_eq!(idle.step(at(end), quiet(0), IDLE), IDLE_OVER);
    }

    #[test]
    fn a_request_keeps_it_and_restarts_the_time() {
        let mut idle = Idle::default();
        let end = 2 * HOUR;
        assert!(warns(idle.step(at(end - 10), quiet(0), IDLE)).is_some());
        let busy = Usage { busy: true, last: at(end + 5 * HOUR) };
        assert_eq!(idle.step(at(end + 5 * HOUR), busy, IDLE), Decision::Keep, "a long stream");
        assert_eq!(idle.due(busy, IDLE), None);
        let last = end + 5 * HOUR;
        assert_eq!(idle.step(at(last + end - 800), quiet(last), IDLE), Decision::Keep);
        assert_eq!(warns(idle.step(at(last + end - 700), quiet(last), IDLE)), Some(700), "announced again");
        assert_eq!(idle.step(at(last + end), quiet(last), IDLE), IDLE_OVER);
    }

    #[test]
    fn without_a_limit_it_stays() {
        let mut idle = Idle::default();
        let none = Limits::default();
        assert_eq!(idle.step(at(1_000_000), quiet(0), none), Decision::Keep);
        assert_eq!(idle.due(quiet(0), none), None);
    }

    #[test]
    fn a_persons_time_takes_precedence_and_a_request_in_flight_outlasts_it() {
        let mut idle = Idle::default();
        let limits = lent(12, Some(12 * HOUR));
        assert_eq!(idle.step(at(3 * HOUR), quiet(0), limits), Decision::Keep, "idle for more than 2 h");
        assert_eq!(warns(idle.step(at(12 * HOUR - 900), quiet(0), limits)), Some(900), "15 min at most");
        let busy = |now| Usage { busy: true, last: at(now) };
        assert_eq!(idle.step(at(13 * HOUR), busy(13 * HOUR), limits), Decision::Keep);
        let over = Decision::Stop(StopReason::TimeOver(Duration::from_secs(12 * HOUR)));
        assert_eq!(idle.step(at(13 * HOUR + 1), quiet(13 * HOUR), limits), over);
        assert_eq!(Idle::default().step(at(13 * HOUR), quiet(0), lent(12, None)), Decision::Keep);
    }

    #[test]
    fn after_the_machine_slept_there_is_a_notice_before_the_stop() {
        let mut idle = Idle::default();
        assert_eq!(warns(idle.step(at(9 * HOUR), quiet(0), IDLE)), Some(60));
        assert_eq!(idle.due(quiet(0), IDLE), Some(at(9 * HOUR + 60)));
        assert_eq!(idle.step(at(9 * HOUR + 59), quiet(0), IDLE), Decision::Keep);
        assert_eq!(idle.step(at(9 * HOUR + 60), quiet(0), IDLE), IDLE_OVER);
    }
}
