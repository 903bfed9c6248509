//! Manual models that go by themselves: the decisions of [`crate::lifecycle::Idle`], carried out with the regular look
//! at files, so that no timer is spent on them.

use std::time::Duration;

use super::driver::Driver;
use super::slot::Slot;
use super::used::Used;
use crate::api::{ApiError, ErrorCode, StartRequest};
use crate::clock::Moment;
use crate::lifecycle::{Decision, Event, Lent, Limits, Managed, Name, Next, Run, State, StopReason, Usage};
use crate::registry::Start;

impl Slot {
    /// How its run is used. A last request is dated when it is first seen here: the gate's clock stands still while a
    /// Mac sleeps.
    pub fn usage(&self, now: Moment, run: &Run, since: Moment) -> (Usage, Used) {
        let traffic = self.gate.traffic();
        let (_, mark) = traffic.progress();
        let busy = traffic.wanted();
        let last = match traffic.last_activity() {
            _ if busy => Some(now),
            Some(at) if mark != self.used.mark => Some(Moment(now.0.saturating_sub(at.elapsed()))),
            _ => self.used.last,
        };
        // One that was found ready was so before.
        let begin = if run.adopted { run.spawned } else { since };
        let last = last.map_or(begin, |last| last.max(begin)).min(now);
        (Usage { busy, last }, Used { last: Some(last), mark })
    }

    fn limits(&self) -> Limits {
        match self.model.start {
            Start::Manual => Limits { idle: self.model.stop.idle, lent: self.lent },
            Start::Always => Limits::default(),
        }
    }

    /// For `status`: seconds without a request, and until it is stopped by itself.
    pub fn idleness(&self, now: Moment, managed: &Managed) -> (Option<f64>, Option<f64>) {
        let State::Ready { run, since } = &managed.state else { return (None, None) };
        let (usage, _) = self.usage(now, run, *since);
        let idle = (!usage.busy).then(|| now.since(usage.last).as_secs_f64());
        let due = self.run.as_ref().and_then(|tasks| tasks.idle.due(usage, self.limits()));
        (idle, due.map(|due| due.since(now).as_secs_f64()))
    }

    /// The time that a person gave begins when the model is ready, and is void once it is down for good.
    pub fn follow_lent(&mut self, managed: &Managed) {
        match (&managed.state, &mut self.lent) {
            (State::Ready { since, .. }, Some(Lent { length, until: until @ None })) => {
                *until = Some(since.after(*length));
            }
            // Before adoption a live model looks like one that was never started.
            (State::Stopped { why: StopReason::NeverStarted }, _) => {}
            (State::Stopped { .. } | State::Failed { .. }, lent) => *lent = None,
            _ => {}
        }
    }
}

impl Driver {
    /// Stops what nobody has used for long, or whose time is over, and announces it before.
    pub fn stop_forgotten(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        let now = self.host.now();
        let mut decided: Vec<(Name, Decision)> = Vec::new();
        for managed in self.fleet.models() {
            let State::Ready { run, since } = &managed.state else { continue };
            let Some(slot) = self.slots.get_mut(&managed.name) else { continue };
            let (usage, used) = slot.usage(now, run, *since);
            slot.used = used;
            let limits = slot.limits();
            if let Some(tasks) = slot.run.as_mut() {
                decided.push((managed.name.clone(), tasks.idle.step(now, usage, limits)));
            }
        }
        for (model, decision) in decided {
            match decision {
                Decision::Keep => {}
                Decision::Warn(left, why) => {
                    let left = humantime::format_duration(Duration::from_secs(left.as_secs().max(1)));
                    let text = match why {
                        StopReason::Idle(_) => format!("stops in {left} unless a request comes"),
                        _ => format!("stops in {left}: {}", why.text()),
                    };
                    self.note(Some(&model), "stops_soon", &text);
                }
                Decision::Stop(why) => {
                    self.handle(Event::Stop { model, waiter: None, why, now: false, drain: None });
                }
            }
        }
    }

    /// The time that a start asks for, if any.
    pub(super) fn lent(&self, name: &Name, request: &StartRequest) -> Result<Option<Duration>, ApiError> {
        let refuse = |message: String, hint: &str| {
            Err(ApiError { code: ErrorCode::BadRequest, message, hint: Some(hint.to_owned()) })
        };
        let Some(seconds) = request.for_seconds else { return Ok(None) };
        let Some(time) = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()) else {
            return refuse(format!("`for_seconds` is {seconds}"), "a number of seconds above 0");
        };
        let always = self.slots.get(name).is_some_and(|slot| slot.model.start == Start::Always);
        if always {
            let message = format!("{name} is always-on and does not stop by itself");
            return refuse(message, "leave --for out, or make the model `start = \"manual\"`");
        }
        Ok(Some(time))
    }

    /// A person is about to start or restart a model: what was given to an earlier run of it is void.
    pub(super) fn begin_use(&mut self, name: &Name) {
        let now = self.host.now();
        let state = self.fleet.get(name).map(|managed| &managed.state);
        let down = matches!(
            state,
            Some(
                State::Stopped { .. }
                    | State::Failed { .. }
                    | State::Draining { next: Next::Stop(_), .. }
                    | State::Stopping { next: Next::Stop(_), .. }
            )
        );
        if let Some(slot) = self.slots.get_mut(name) {
            slot.used.last = Some(now);
            if down {
                slot.lent = None;
            }
        }
    }

    /// A start was granted, or the model runs already: from then on the time counts.
    pub(super) fn lend(&mut self, name: &Name, length: Duration) {
        let Some(managed) = self.fleet.get(name).filter(|managed| managed.state.generation().is_some())
        else {
            return;
        };
        let ready = matches!(managed.state, State::Ready { .. });
        let until = ready.then(|| self.host.now().after(length));
        if let Some(slot) = self.slots.get_mut(name) {
            slot.lent = Some(Lent { length, until });
        }
        self.keep(false);
    }
}
