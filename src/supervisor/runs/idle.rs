//! How a model is used, which decides when a manual one goes by itself: the input of [`crate::lifecycle::Idle`].

use std::time::Duration;

use crate::clock::Moment;
use crate::gate::Traffic;
use crate::lifecycle::{self, Lent, Limits, Managed, Next, Run, State, StopReason};
use crate::registry::{Model, Start};

/// One model's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// The time that a person gave it, if one did.
    lent: Option<Lent>,
    /// The last sign of use, across supervisors of this boot.
    last: Option<Moment>,
    /// The gate's mark of activity then.
    mark: u64,
}

impl Usage {
    /// The time that a person gave it, if one did.
    pub(crate) fn lent(&self) -> Option<Lent> {
        self.lent
    }

    /// When it was last of use.
    pub(crate) fn last(&self) -> Option<Moment> {
        self.last
    }

    /// As an earlier supervisor of this boot knew it.
    pub(super) fn recall(&mut self, lent: Option<Lent>, last: Option<Moment>) {
        (self.lent, self.last) = (lent, last);
    }

    /// What may end its run.
    pub(super) fn limits(&self, model: &Model) -> Limits {
        match model.start {
            Start::Manual => Limits { idle: model.stop.idle, lent: self.lent },
            Start::Always => Limits::default(),
        }
    }

    /// How its run is used. A last request is dated when it is first seen here: the gate's clock stands still while a
    /// Mac sleeps.
    pub(super) fn seen(&self, traffic: &Traffic, now: Moment, run: &Run, since: Moment) -> lifecycle::Usage {
        let (_, mark) = traffic.progress();
        let busy = traffic.wanted();
        let last = match traffic.last_activity() {
            _ if busy => Some(now),
            Some(at) if mark != self.mark => Some(Moment(now.0.saturating_sub(at.elapsed()))),
            _ => self.last,
        };
        // One that was found ready was so before.
        let begin = if run.adopted { run.spawned } else { since };
        let last = last.map_or(begin, |last| last.max(begin)).min(now);
        lifecycle::Usage { busy, last }
    }

    /// The same, and keeps what was seen.
    pub(super) fn look(
        &mut self,
        traffic: &Traffic,
        now: Moment,
        run: &Run,
        since: Moment,
    ) -> lifecycle::Usage {
        let mark = traffic.progress().1;
        let seen = self.seen(traffic, now, run, since);
        (self.last, self.mark) = (Some(seen.last), mark);
        seen
    }

    /// The time that a person gave begins when the model is ready, and is void once it is down for good.
    pub(super) fn follow(&mut self, managed: &Managed) {
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

    /// A person is about to start or restart it: what was given to an earlier run of it is void.
    pub(super) fn begin(&mut self, now: Moment, managed: Option<&Managed>) {
        let down = matches!(
            managed.map(|managed| &managed.state),
            Some(
                State::Stopped { .. }
                    | State::Failed { .. }
                    | State::Draining { next: Next::Stop(_), .. }
                    | State::Stopping { next: Next::Stop(_), .. }
            )
        );
        self.last = Some(now);
        if down {
            self.lent = None;
        }
    }

    /// A person gave it time. `ready`: from now on; otherwise from when it is ready.
    pub(super) fn lend(&mut self, now: Moment, length: Duration, ready: bool) {
        let until = ready.then(|| now.after(length));
        self.lent = Some(Lent { length, until });
    }
}
