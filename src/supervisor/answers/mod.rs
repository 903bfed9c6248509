//! Questions to the supervisor and its answers: documents, outcomes of commands, notifications.

mod absent;
mod ask;
mod changes;
mod glance;
mod notices;
mod outcome;
mod status;
mod waiters;

use std::sync::Arc;

use tokio::sync::oneshot;

pub(crate) use absent::planned_status;
pub(crate) use ask::{Answer, Ask, Hold};
pub(crate) use changes::{changes, listeners, tables, word};
use glance::Glance;
use notices::Notices;
pub(crate) use outcome::{being_replaced, done, failed, freed, lent, not_running, not_taken_in, unknown};
pub(crate) use status::Sources;
pub(crate) use status::host_status;
use status::{Documents, problems};
use waiters::Waiters;

use crate::api::{EventRecord, ModelStatus, Status};
use crate::clock::Moment;
use crate::lifecycle::{Outcome, WaiterId};
use crate::metrics::{Listener, Snapshot};
use crate::notify::Sent;
use crate::page;
use crate::registry::Registry;
use crate::supervisor::capacity::Capacity;
use crate::supervisor::records::{Note, Records};

/// Open questions, and everything that answers are made of.
pub(crate) struct Answers {
    started: Moment,
    glance: Glance,
    waiters: Waiters,
    notices: Notices,
    /// The listener of the registry's `[metrics]`.
    metrics: Listener,
    page: page::Listener,
}

impl Answers {
    /// `past`: the history, as far as it is in memory. `report` passes the result of each notification on to
    /// [`Answers::notified`].
    pub(super) fn new(
        started: Moment,
        registry: &Registry,
        source: impl page::Source,
        past: &[EventRecord],
        report: Arc<dyn Fn(Sent) + Send + Sync>,
    ) -> Self {
        let metrics = Listener::spawn(source.clone());
        metrics.listen(registry);
        let page = page::Listener::spawn(source, &registry.paths);
        page.listen(registry);
        let notices = Notices::new(registry, past, report);
        Self { started, glance: Glance::default(), waiters: Waiters::default(), notices, metrics, page }
    }

    /// Follows a reloaded registry: listeners and notifications.
    pub(super) fn follow(&mut self, registry: &Registry) {
        self.notices.follow(registry);
        self.metrics.listen(registry);
        self.page.listen(registry);
    }

    /// The document of `mlxctl status --json`.
    pub(super) fn status(&mut self, sources: &Sources) -> Status {
        self.documents(sources).status()
    }

    /// One model's part of [`Answers::status`].
    pub(super) fn model(&mut self, sources: &Sources, name: &str) -> Option<ModelStatus> {
        self.documents(sources).model(name)
    }

    /// All counters, for the metrics listener.
    pub(super) fn metrics(&mut self, sources: &Sources) -> Snapshot {
        self.documents(sources).metrics()
    }

    fn documents<'a>(&'a mut self, from: &'a Sources<'a>) -> Documents<'a> {
        let now = from.host.now();
        self.glance.look(now, from.host, from.registry);
        let listeners = [self.metrics.problem(), self.page.problem()].into_iter().flatten().collect();
        Documents { now, from, glance: &self.glance, started: self.started, listeners }
    }

    /// Of `asked`, exactly `running` were just seen to run: readings that disagree are outdated.
    pub(super) fn contradicted_by(&mut self, asked: &[String], running: &[String]) {
        self.glance.contradicted_by(asked, running);
    }

    /// Registers a waiter; the id goes with its command.
    pub(super) fn waiter(&mut self) -> (WaiterId, oneshot::Receiver<Outcome>) {
        self.waiters.register()
    }

    pub(super) fn reply(&mut self, waiter: WaiterId, outcome: Outcome) {
        self.waiters.reply(waiter, outcome);
    }

    /// Passes new events on to the notifier.
    pub(super) fn hear(&mut self, events: &[EventRecord], registry: &Registry) {
        self.notices.hear(events, registry);
    }

    /// Handles the result of a notification; a failure is noted.
    pub(super) fn notified(&mut self, sent: Sent) -> Option<Note> {
        self.notices.sent(sent)
    }

    /// Notes when the disk starts and stops refusing writes, and which keys were revoked.
    pub(super) fn look_for_trouble(
        &mut self,
        registry: &Registry,
        records: &Records,
        capacity: &Capacity,
    ) -> Vec<Note> {
        self.notices.look(problems(records, capacity).next(), registry)
    }
}
