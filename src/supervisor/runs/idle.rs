//! How a model is used, which decides when a manual one stops by itself: the input of [`crate::lifecycle::Idle`].

use std::time::Duration;

use crate::clock::Moment;
use crate::gate::Traffic;
use crate::lifecycle::{self, Lent, Limits, Managed, Next, Run, State, StopReason};
use crate::registry::{Model, Start};

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// The time that a person gave its run, if any.
    lent: Option<Lent>,
    /// When it was last used, across supervisors of this boot.
    last: Option<Moment>,
    /// The gate's activity counter at that time.
    mark: u64,
}

impl Usage {
    /// The time that a person gave its run, if any.
    pub(crate) fn lent(&self) -> Option<Lent> {
        self.lent
    }

    /// When it was last used; `None`: not in this boot.
    pub(crate) fn last(&self) -> Option<Moment> {
        self.last
    }

    /// Restores what an earlier supervisor of this boot knew.
    pub(super) fn recall(&mut self, lent: Option<Lent>, last: Option<Moment>) {
        (self.lent, self.last) = (lent, last);
    }

    /// The limits on its run; none for always-on models.
    pub(super) fn limits(&self, model: &Model) -> Limits {
        match model.start {
            Start::Manual => Limits { idle: model.stop.idle, lent: self.lent },
            Start::Always => Limits::default(),
        }
    }

    /// How its run is used now. The last request is dated when it is first seen here, since the gate's clock stops while
    /// a Mac sleeps.
    pub(super) fn seen(&self, traffic: &Traffic, now: Moment, run: &Run, since: Moment) -> lifecycle::Usage {
        let (_, mark) = traffic.progress();
        let busy = traffic.wanted();
        let last = match traffic.last_activity() {
            _ if busy => Some(now),
            Some(at) if mark != self.mark => Some(Moment(now.0.saturating_sub(at.elapsed()))),
            _ => self.last,
        };
        // An adopted run was ready before this supervisor saw it.
        let begin = if run.adopted { run.spawned } else { since };
        let last = last.map_or(begin, |last| last.max(begin)).min(now);
        lifecycle::Usage { busy, last }
    }

    /// As [`Usage::seen`], and remembers the result.
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

    /// Starts the time that a person gave when the model is ready, and cancels it once the model is down for good.
    pub(super) fn follow(&mut self, managed: &Managed) {
        match (&managed.state, &mut self.lent) {
            (State::Ready { since, .. }, Some(Lent { length, until: until @ None })) => {
                *until = Some(since.after(*length));
            }
            // Before its adoption a live model looks as if it was never started.
            (State::Stopped { why: StopReason::NeverStarted }, _) => {}
            (State::Stopped { .. } | State::Failed { .. }, lent) => *lent = None,
            _ => {}
        }
    }

    /// Handles a start or restart by a person, which cancels the time given to an earlier run.
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

    /// Gives its run time: from now on if it is `ready`, else from when it becomes ready.
    pub(super) fn lend(&mut self, now: Moment, length: Duration, ready: bool) {
        let until = ready.then(|| now.after(length));
        self.lent = Some(Lent { length, until });
    }
}
