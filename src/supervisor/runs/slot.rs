//! One model's gate and the run behind it.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::attendance::{RunTasks, Watched};
use super::door::{Door, Seen};
use super::idle::Usage;
use super::logs::rotate;
use super::news::News;
use super::spawn::{Order, Spawned};
use super::tools::Tools;
use super::trim::{forget, trim};
use crate::api::RankStatus;
use crate::backend::launcher;
use crate::backend::link::Request;
use crate::backend::logs::{self, Aside};
use crate::backend::probe::Vitals;
use crate::backend::spec::Record;
use crate::clock::Moment;
use crate::gate::{self, Availability, Gate};
use crate::host::{Footprint, Identity};
use crate::lifecycle::{Decision, Event, Failure, Generation, Lent, Managed, Name, Signed, State};
use crate::registry::{Model, Registry};
use crate::supervisor::capacity::{Demand, ReadyRun};
use crate::supervisor::records::{Note, log_file, trim as trim_log};
use crate::units::Bytes;

/// How long a measurement counts as current, so that frequent requests do not repeat it.
const FRESH: Duration = Duration::from_secs(1);

/// The error for clients whose answers are cut at the end of the supervisor.
const CUT: &str = "the supervisor is being replaced; ask again in a moment";

/// One model, with its gate and its live run, if any.
pub(crate) struct Slot {
    name: Name,
    tools: Tools,
    model: Arc<Model>,
    door: Door,
    /// The tasks of its live run.
    run: Option<RunTasks>,
    /// The last measurement of its live run.
    sample: Option<(Moment, Footprint)>,
    usage: Usage,
    /// When its hours begin, while it is outside them.
    pub(super) opens: Option<Moment>,
}

/// Accessors, mostly for `status`.
impl Slot {
    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub(crate) fn gate(&self) -> &Gate {
        self.door.gate()
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        self.door.addresses()
    }

    /// Why the gate does not listen everywhere it should; `None`: it does.
    pub(crate) fn gate_problem(&self) -> Option<&str> {
        self.door.problem()
    }

    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The last measured footprint of the live run.
    pub(crate) fn sample(&self) -> Option<Footprint> {
        self.sample.map(|(_, footprint)| footprint)
    }

    /// The health of the live run as its probe sees it.
    pub(crate) fn vitals(&self) -> Option<&Vitals> {
        self.run.as_ref().map(|run| &*run.vitals)
    }

    /// The repository that the live run serves; `None`: there is no run, or it is not known.
    pub(crate) fn running_repo(&self) -> Option<&str> {
        self.run.as_ref().map(|run| run.spec.repo.as_str()).filter(|repo| !repo.is_empty())
    }

    /// How the live run differs from what the registry would start now; `None`: not at all.
    pub(crate) fn outdated(&self) -> Option<&str> {
        self.run.as_ref()?.outdated.as_deref()
    }

    /// The ranks of the live run; empty without a cluster.
    pub(crate) fn ranks(&self) -> Vec<RankStatus> {
        self.vitals().map(Vitals::ranks).unwrap_or_default()
    }

    /// Seconds since the last use, and until it stops by itself; `None`: in use, or no limit.
    pub(crate) fn idleness(&self, now: Moment, managed: &Managed) -> (Option<f64>, Option<f64>) {
        let State::Ready { run, since } = &managed.state else { return (None, None) };
        let seen = self.usage.seen(self.gate().traffic(), now, run, *since);
        let idle = (!seen.busy).then(|| now.since(seen.last).as_secs_f64());
        let due = self.run.as_ref().and_then(|tasks| tasks.idle.due(seen, self.usage.limits(&self.model)));
        (idle, due.map(|due| due.since(now).as_secs_f64()))
    }
}

/// Its gate.
impl Slot {
    /// A slot with an open gate and no run.
    pub(super) fn open(tools: Tools, model: Arc<Model>, door: Door) -> Self {
        let name = Name::from(model.name.as_str());
        Self { name, tools, model, door, run: None, sample: None, usage: Usage::default(), opens: None }
    }

    /// Follows a changed registry entry.
    pub(super) fn follow(&mut self, registry: &Registry, model: Arc<Model>, demand: Option<&Demand>) {
        self.door.follow(registry, &model, demand);
        self.model = model;
    }

    pub(crate) fn heard(&mut self, report: gate::Report) -> Option<Note> {
        match report {
            gate::Report::Listening { addresses, problem } => {
                self.door.listens(&self.name, addresses, problem)
            }
            gate::Report::Suspect { generation, why } => {
                if let Some(run) = self.run.as_ref().filter(|run| run.generation.0 == generation) {
                    tracing::debug!(model = &*self.name, why, "suspect");
                    run.suspicion.notify_one();
                }
                None
            }
        }
    }

    /// Tells the gate its availability. `load_time`: how long the last load took. `instead` replaces the availability of a
    /// ready model while no new requests may start.
    pub(super) fn publish(
        &mut self,
        managed: &Managed,
        now: Moment,
        load_time: Option<Duration>,
        instead: Option<&Availability>,
    ) {
        if managed.state.generation().is_none() {
            self.end_run();
        }
        self.usage.follow(managed);
        let secret = self.run.as_ref().map(|run| &run.secret);
        let hours = self.model.hours.as_ref().zip(self.opens);
        self.door.publish(&Seen { managed, secret, now, load_time, hours }, instead);
    }

    /// Cuts the requests in flight at a run; `why` goes to their clients.
    pub(crate) fn abort(&self, generation: Generation, why: &str) {
        self.gate().abort(generation.0, why);
    }

    /// Tells waiting clients to come back if this supervisor is `leaving`, and cuts requests in flight.
    pub(super) fn end(&self, generation: Option<Generation>, leaving: bool) {
        if leaving {
            self.door.leave();
        }
        if let Some(generation) = generation {
            self.abort(generation, CUT);
        }
    }

    pub(super) fn close(self) -> impl Future<Output = ()> {
        self.door.close()
    }
}

/// Its run.
impl Slot {
    pub(super) fn run(&self) -> Option<&RunTasks> {
        self.run.as_ref()
    }

    /// Starts the process of a run and its tasks. `lock`: held by the process until its record is written.
    pub(super) fn spawn(
        &mut self,
        registry: &Registry,
        demand: Option<&Demand>,
        (generation, reserved): (Generation, Bytes),
        lock: io::Result<File>,
    ) -> Result<Identity, Failure> {
        let spawned = self.order(registry, demand, generation, reserved).spawn(&self.name, lock)?;
        let identity = spawned.identity;
        self.attend(registry, spawned);
        Ok(identity)
    }

    fn order<'a>(
        &'a self,
        registry: &'a Registry,
        demand: Option<&'a Demand>,
        generation: Generation,
        reserved: Bytes,
    ) -> Order<'a> {
        Order { registry, model: &self.model, binary: &self.tools.binary, demand, generation, reserved }
    }

    /// Starts the tasks of an adopted run, which the fleet already knows.
    pub(crate) fn adopt(&mut self, registry: &Registry, record: Record) {
        let Record { spec, identity, .. } = record;
        let log_start = logs::mark(&spec.log);
        self.attend(registry, Spawned { identity, spec, log_start });
    }

    fn attend(&mut self, registry: &Registry, spawned: Spawned) {
        let Spawned { identity, spec, log_start } = spawned;
        let watched = Watched {
            name: &self.name,
            identity,
            spec,
            log_start,
            health: &self.model.health,
            traffic: self.gate().traffic().clone(),
            run: &registry.paths.run,
            logs: &registry.paths.logs,
        };
        self.run = Some(watched.attend(&self.tools));
    }

    /// Compares the live run with what the registry would start now.
    pub(crate) fn look_for_differences(&mut self, registry: &Registry, demand: Option<&Demand>) {
        let Some(started) = self.run.as_ref().map(|run| &run.spec) else { return };
        let (generation, reserved) = (Generation(started.generation), Bytes(started.reserved));
        let found = self.order(registry, demand, generation, reserved).difference(started);
        if let (Some(outdated), Some(run)) = (found, &mut self.run) {
            run.outdated = outdated;
        }
    }

    /// Ends the tasks of a run that is over.
    pub(crate) fn end_run(&mut self) {
        (self.run, self.sample) = (None, None);
    }

    /// Reports `Drained` once no request is in flight.
    pub(crate) fn drain(&mut self, generation: Generation) {
        let (traffic, report) = (self.gate().traffic().clone(), self.tools.report.clone());
        let model = self.name.clone();
        let task = tokio::spawn(async move {
            traffic.drained().await;
            report(News::Event(Event::Of { model, generation, signed: Signed::Drained }));
        });
        if let Some(run) = &mut self.run {
            run.tasks.push(task.abort_handle());
        }
    }

    /// Rotates the log if it is large. `left_alone`: a process of an earlier run may be writing it.
    pub(super) fn rotate_log(&mut self, registry: &Registry, left_alone: bool) {
        let log = log_file(&registry.paths.logs, &self.name);
        match &mut self.run {
            Some(run) => rotate(&self.name, log, run, &self.tools.report),
            None if left_alone => {}
            None => trim_log(log, Aside::All),
        }
    }

    /// Handles the launcher's answer whether it has opened a new log.
    pub(crate) fn log_reopened(&mut self, generation: Generation, done: bool) {
        if let Some(run) = self.run.as_mut().filter(|run| run.generation == generation) {
            run.reopening = false;
            tracing::debug!(model = &*self.name, done, "a log was rotated");
        }
    }
}

/// Its memory.
impl Slot {
    /// What its live run takes on this machine. `leader`: the footprint of its process group. Ranks lead sessions of their
    /// own; those on this machine count as last reported.
    pub(super) fn charged(&self, leader: Footprint) -> Footprint {
        let Some((run, group)) = self.run.as_ref().and_then(|run| Some((run, run.spec.group.as_ref()?)))
        else {
            return leader;
        };
        let ranks = run.vitals.ranks();
        let here: Bytes = ranks
            .iter()
            .filter(|rank| group.places.get(rank.rank).is_some_and(|place| place.local))
            .filter_map(|rank| rank.footprint_bytes.map(Bytes))
            .sum();
        let bytes = leader.bytes + here;
        Footprint { bytes, peak: leader.peak.map(|peak| peak + here), ..leader }
    }

    /// Measures its live run, unless the last measurement is fresh.
    pub(super) fn measure(&mut self, now: Moment, identity: Identity) {
        if self.sample.is_none_or(|(at, _)| now.since(at) >= FRESH)
            && let Ok(leader) = self.tools.host.footprint(identity)
        {
            let footprint = self.charged(leader);
            let before = self.sample.map_or(Bytes::ZERO, |(_, before)| before.peak.unwrap_or(before.bytes));
            let peak = Some(footprint.peak.unwrap_or(footprint.bytes).max(before));
            self.sample = Some((now, Footprint { peak, ..footprint }));
        }
    }

    /// The current state of its run; `None`: not ready.
    pub(super) fn ready(&self, now: Moment, managed: &Managed) -> Option<ReadyRun> {
        let State::Ready { run, since } = &managed.state else { return None };
        let tasks = self.run.as_ref().filter(|tasks| tasks.generation == run.generation)?;
        let footprint = self.charged(self.tools.host.footprint(run.identity).ok()?);
        let traffic = self.gate().traffic();
        let since = (*since).min(now);
        let last_request = match traffic.last_activity() {
            Some(at) => Moment(now.0.saturating_sub(at.elapsed())).max(since),
            None => since,
        };
        Some(ReadyRun {
            name: self.name.clone(),
            generation: run.generation,
            footprint,
            in_flight: traffic.progress().0.into(),
            requests: traffic.status().counts.requests,
            last_request,
            outdated: tasks.outdated.is_some(),
        })
    }

    /// Has the buffer cache emptied, without waiting for it.
    pub(crate) fn empty_cache(&self) {
        self.run.iter().for_each(|run| run.ask(Request::Trim));
    }

    /// Has as much cached memory released as possible without delaying a request, without waiting for it.
    pub(crate) fn give_back(&self) {
        self.run.iter().for_each(|run| run.ask(self.trim_now()));
    }

    /// The request to trim its run: kept prompts are only dropped if no request would have to wait for that.
    fn trim_now(&self) -> Request {
        if self.gate().traffic().progress().0 == 0 { Request::Release } else { Request::Trim }
    }

    /// As [`Slot::give_back`], and returns the bytes released, or `None` if the launcher did not answer. Returns `None` at
    /// once if it is not running.
    pub(crate) fn trim(&self) -> Option<impl Future<Output = Option<Bytes>> + use<>> {
        Some(trim(self.run.as_ref()?.questions.clone(), self.trim_now()))
    }

    /// Has all kept prompts dropped and deleted; returns the bytes freed on disk, or why that failed.
    pub(crate) fn forget_prompts(&self, state: &Path) -> impl Future<Output = Result<Bytes, String>> + use<> {
        let questions = self.run.as_ref().map(|run| run.questions.clone());
        forget(questions, launcher::prompts(state, &self.name))
    }
}

/// How it is used.
impl Slot {
    /// Restores what an earlier supervisor of this boot knew.
    pub(crate) fn recall(&mut self, lent: Option<Lent>, last_used: Option<Moment>) {
        self.usage.recall(lent, last_used);
    }

    /// Handles a start or restart by a person.
    pub(crate) fn begin_use(&mut self, managed: Option<&Managed>) {
        self.usage.begin(self.tools.host.now(), managed);
    }

    /// Gives its run time, if it runs or a start was granted; returns whether so.
    pub(crate) fn lend(&mut self, managed: Option<&Managed>, length: Duration) -> bool {
        let runs = managed.is_some_and(|managed| managed.state.generation().is_some());
        if runs {
            let ready = managed.is_some_and(|managed| matches!(managed.state, State::Ready { .. }));
            self.usage.lend(self.tools.host.now(), length, ready);
        }
        runs
    }

    /// Whether to announce or carry out a stop of its run for lack of use; `None`: it is not ready.
    pub(super) fn idle_step(&mut self, now: Moment, managed: &Managed) -> Option<(Name, Decision)> {
        let State::Ready { run, since } = &managed.state else { return None };
        let seen = self.usage.look(self.door.gate().traffic(), now, run, *since);
        let limits = self.usage.limits(&self.model);
        Some((self.name.clone(), self.run.as_mut()?.idle.step(now, seen, limits)))
    }
}
