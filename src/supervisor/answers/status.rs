//! The documents of the control API: what `mlxctl status --json` shows.

use std::net::SocketAddr;

use super::absent;
use super::glance::Glance;
use crate::api::{
    BudgetStatus, GateStatus, HealthStatus, HostStatus, ModelMemoryStatus, ModelStatus, SCHEMA, Status,
    SupervisorStatus, TrafficStatus,
};
use crate::clock::Moment;
use crate::host::Host;
use crate::lifecycle::{Fleet, Managed, State, StopReason};
use crate::memory::budget::balance;
use crate::metrics::Snapshot;
use crate::registry::{Model, Registry};
use crate::supervisor::capacity::{Capacity, Demand};
use crate::supervisor::records::Records;
use crate::supervisor::runs::Runs;
use crate::units::Bytes;

pub(crate) struct Sources<'a> {
    pub host: &'a dyn Host,
    pub registry: &'a Registry,
    /// Why the file on disk is not the registry in effect.
    pub registry_problem: Option<&'a str>,
    pub fleet: &'a Fleet,
    pub runs: &'a Runs,
    pub capacity: &'a Capacity,
    pub records: &'a Records,
}

/// Makes documents from the sources and the readings taken for them.
pub(super) struct Documents<'a> {
    pub now: Moment,
    pub from: &'a Sources<'a>,
    pub glance: &'a Glance,
    pub started: Moment,
    /// Why metrics or page do not listen although they should.
    pub listeners: Vec<String>,
}

impl Documents<'_> {
    /// The document of `mlxctl status --json`.
    pub(super) fn status(&self) -> Status {
        Status {
            schema: SCHEMA,
            supervisor: Some(self.supervisor()),
            host: host_status(self.from.host),
            budget: self.budget(),
            models: self.from.fleet.models().iter().filter_map(|managed| self.of_model(managed)).collect(),
            router: absent::router(self.from.registry, self.from.runs.router_problem().map(str::to_owned)),
            answer: None,
        }
    }

    /// One model's part of [`Documents::status`].
    pub(super) fn model(&self, name: &str) -> Option<ModelStatus> {
        self.of_model(self.from.fleet.get(name)?)
    }

    /// All counters, with the status they are shown with.
    pub(super) fn metrics(&self) -> Snapshot {
        let slots = self.from.runs.slots();
        Snapshot {
            status: self.status(),
            traffic: slots.map(|(name, slot)| (name.to_string(), slot.gate().traffic().detail())).collect(),
            noted: self.from.records.noted().clone(),
            router: self.from.runs.router_codes(),
        }
    }

    fn supervisor(&self) -> SupervisorStatus {
        let (pace, holding) = self.from.capacity.giving_way().in_force();
        SupervisorStatus {
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.now.since(self.started).as_secs_f64(),
            config: self.from.registry.file.display().to_string(),
            config_problem: self.from.registry_problem.map(str::to_owned),
            footprint_bytes: self.glance.own().map(|bytes| bytes.0),
            waiting_for: self.waiting_for(),
            yielding_to: self.yielding_to(),
            pace_percent: pace.map(|share| share.0),
            holding,
        }
    }

    fn waiting_for(&self) -> Vec<String> {
        let gates = self.from.runs.slots().filter_map(|(_, slot)| slot.gate_problem().map(str::to_owned));
        let router = self.from.runs.router_problem().map(|problem| format!("router: {problem}"));
        let problems = problems(self.from.records, self.from.capacity).map(str::to_owned);
        let strays = self.from.runs.strays().map(|stray| format!("process {} to end", stray.pid));
        let listeners = self.listeners.iter().cloned();
        gates.chain(router).chain(problems).chain(listeners).chain(strays).collect()
    }

    /// The programs that run now; if none does, those that just ended and may come back.
    fn yielding_to(&self) -> Vec<String> {
        let running = self.glance.yielded_to(self.from.registry);
        if running.is_empty() { self.from.capacity.yielding_to().to_vec() } else { running }
    }

    fn budget(&self) -> BudgetStatus {
        let models: Bytes = self.from.fleet.reserved().into_iter().map(|(_, bytes)| bytes).sum();
        balance(self.from.host.facts().memory, &self.from.registry.reserves, self.glance.running(), models)
    }

    fn of_model(&self, managed: &Managed) -> Option<ModelStatus> {
        let (now, name) = (self.now, &managed.name);
        let (slot, demand) = (self.from.runs.slot(name)?, self.from.capacity.demand(name)?);
        let run = managed.state.run();
        let vitals = slot.vitals();
        let footprint = slot.sample();
        let model = slot.model();
        let weights = demand.files().weights();
        let traffic = slot.gate().traffic().status();
        let counts = self.from.records.since_boot(name, traffic.counts.clone());
        let next_start = match &managed.state {
            State::Backoff { until, .. } => Some(until.since(now).as_secs_f64()),
            _ => None,
        };
        let (idle, stops_in) = slot.idleness(now, managed);
        Some(ModelStatus {
            name: model.name.clone(),
            repo: model.source.to_string(),
            start: model.start,
            state: managed.state.name(),
            reason: managed.reason(),
            hint: managed.hint(),
            pid: run.map(|run| run.identity.pid),
            address: SocketAddr::new(self.from.registry.network.host, model.port).to_string(),
            gate: GateStatus {
                listening: slot.addresses().iter().map(ToString::to_string).collect(),
                problem: slot.gate_problem().map(str::to_owned),
            },
            backend_address: run.and_then(|run| run.port).map(|port| format!("127.0.0.1:{port}")),
            uptime_seconds: run.map(|run| now.since(run.spawned).as_secs_f64()),
            restarts: managed.restarts,
            adopted: run.is_some_and(|run| run.adopted),
            next_start_seconds: next_start,
            idle_seconds: idle,
            stops_in_seconds: stops_in,
            asleep_until: match managed.state {
                State::Stopped { why: StopReason::Hours(until) } => Some(until.to_string()),
                _ => None,
            },
            progress: self.progress(managed, weights),
            running_repo: slot.running_repo().map(str::to_owned),
            outdated: slot.outdated().map(str::to_owned),
            held_back: self.from.capacity.held_back(model, &self.glance.yielded_to(self.from.registry)),
            ranks: slot.ranks(),
            memory: ModelMemoryStatus {
                estimate_bytes: reserve(managed, model, demand).map(|bytes| bytes.0),
                weights_bytes: weights.map(|bytes| bytes.0),
                forced: managed.state.forced(),
                overdraft_bytes: demand.overdraft().filter(|_| managed.state.forced()).map(|bytes| bytes.0),
                kv_limit_bytes: demand.plan().map(|plan| plan.bounds.kv_limit.0),
                footprint_bytes: footprint.map(|footprint| footprint.bytes.0),
                peak_bytes: footprint.and_then(|footprint| footprint.peak).map(|bytes| bytes.0),
                prompt_store: vitals.and_then(|vitals| vitals.store()),
            },
            health: HealthStatus {
                alive: run.is_some(),
                listening: vitals.is_some_and(|vitals| vitals.listening()),
                answering: vitals.is_some_and(|vitals| vitals.answering()),
                last_probe_seconds: vitals
                    .and_then(|vitals| vitals.last_passed())
                    .map(|passed| now.0.saturating_sub(passed).as_secs_f64()),
            },
            traffic: TrafficStatus { counts, ..traffic },
        })
    }

    /// Progress of a load, 0 to 1: the share of the weights' bytes that was read.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    fn progress(&self, managed: &Managed, weights: Option<Bytes>) -> Option<f64> {
        let State::Loading { run, .. } = &managed.state else { return None };
        let weights = weights.filter(|weights| *weights > Bytes::ZERO)?;
        let read = self.from.host.bytes_read(run.identity)?;
        Some((read.0 as f64 / weights.0 as f64).min(1.0))
    }
}

/// The reasons why something cannot be written now.
pub(super) fn problems<'a>(records: &'a Records, capacity: &'a Capacity) -> impl Iterator<Item = &'a str> {
    [records.journal_problem(), capacity.problem(), records.checkpoint_problem()].into_iter().flatten()
}

/// What is reserved for a model, or would be if it started.
fn reserve(managed: &Managed, model: &Model, demand: &Demand) -> Option<Bytes> {
    match managed.state.generation() {
        Some(_) => Some(managed.state.reserved()),
        None => demand.estimate().map_or(model.size, |estimate| Some(estimate.reserve())),
    }
}

/// The machine's facts, with memory read now.
pub(crate) fn host_status(host: &dyn Host) -> HostStatus {
    let facts = host.facts();
    let memory = host.memory().unwrap_or_default();
    HostStatus {
        os: facts.os.clone(),
        chip: facts.chip.clone(),
        memory_bytes: facts.memory.0,
        available_bytes: memory.available.map(|bytes| bytes.0),
        pressure: memory.pressure,
        swap_used_bytes: memory.swap_used.map(|bytes| bytes.0),
        gpu_limit_bytes: memory.gpu_limit.map(|bytes| bytes.0),
    }
}
