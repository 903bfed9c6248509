//! What the loop shows of itself: the documents of the control API.

use std::net::SocketAddr;
use std::time::Duration;

use super::admit::Holds;
use super::driver::Driver;
use super::slot::Slot;
use crate::api::{
    BudgetStatus, GateStatus, HealthStatus, HeldBack, HostStatus, ModelMemoryStatus, ModelStatus, SCHEMA,
    Status, SupervisorStatus,
};
use crate::clock::Moment;
use crate::gate::Router;
use crate::host::{Footprint, Host};
use crate::lifecycle::{Managed, Name, State, StopReason};
use crate::memory::budget::balance;
use crate::metrics::Snapshot;
use crate::registry::{Model, Reserve};
use crate::supervisor::absent;
use crate::units::Bytes;

/// For how long what was looked at counts as that of now: whoever asks often does not want to know it more exactly.
const FRESH: Duration = Duration::from_secs(1);

/// What was looked at for the last document, apart from the models.
#[derive(Debug, Default)]
pub(super) struct Glance {
    at: Option<Moment>,
    /// The supervisor's own memory.
    own: Option<Bytes>,
    /// Programs that reserves are for, or that the models yield to.
    watched: Vec<String>,
    /// Those of them that run.
    running: Vec<String>,
}

impl Glance {
    fn is_fresh(&self, now: Moment, watched: &[String]) -> bool {
        self.watched == watched && self.at.is_some_and(|at| now.since(at) < FRESH)
    }
}

impl Glance {
    /// The programs of `asked` that run now were seen to be these: what is shown must not say otherwise.
    pub fn contradicted_by(&mut self, asked: &[String], running: &[String]) {
        if asked.iter().any(|name| self.running.contains(name) != running.contains(name)) {
            self.at = None;
        }
    }
}

impl Driver {
    /// The document of `mlxctl status --json`.
    pub fn status(&mut self) -> Status {
        let now = self.host.now();
        self.look_at_registry();
        self.measure(now);
        let models = self
            .fleet
            .models()
            .iter()
            .filter_map(|managed| Some(self.model_status(now, managed, self.slots.get(&managed.name)?)))
            .collect();
        Status {
            schema: SCHEMA,
            supervisor: Some(self.supervisor_status(now)),
            host: host_status(&*self.host),
            budget: self.budget(),
            models,
            router: absent::router(&self.registry, self.routing.listening.problem.clone()),
            answer: None,
        }
    }

    /// Everything that is counted.
    pub fn metrics(&mut self) -> Snapshot {
        let traffic = |(name, slot): (&Name, &Slot)| (name.to_string(), slot.gate.traffic().detail());
        Snapshot {
            status: self.status(),
            traffic: self.slots.iter().map(traffic).collect(),
            noted: self.noted.clone(),
            router: self.routing.router.as_ref().map(Router::codes),
        }
    }

    /// One model's part of it.
    pub fn one_status(&mut self, name: &str) -> Option<ModelStatus> {
        let now = self.host.now();
        self.measure(now);
        let managed = self.fleet.get(name)?;
        Some(self.model_status(now, managed, self.slots.get(&managed.name)?))
    }

    /// Looks at the footprints of all live runs, and at what runs beside them; not at what was looked at just now.
    fn measure(&mut self, now: Moment) {
        self.glance(now);
        for managed in self.fleet.models() {
            if let (Some(run), Some(slot)) = (managed.state.run(), self.slots.get_mut(&managed.name))
                && slot.sample.is_none_or(|(at, _)| now.since(at) >= FRESH)
                && let Ok(leader) = self.host.footprint(run.identity)
            {
                let footprint = slot.charged(leader);
                let before =
                    slot.sample.map_or(Bytes::ZERO, |(_, before)| before.peak.unwrap_or(before.bytes));
                let peak = Some(footprint.peak.unwrap_or(footprint.bytes).max(before));
                slot.sample = Some((now, Footprint { peak, ..footprint }));
            }
        }
    }

    fn glance(&mut self, now: Moment) {
        let names = |reserve: &Reserve| reserve.while_running.clone();
        let yield_to = self.registry.pressure.yield_to.iter().cloned();
        let watched: Vec<String> = self.registry.reserves.iter().flat_map(names).chain(yield_to).collect();
        if self.glance.is_fresh(now, &watched) {
            return;
        }
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let own = self.host.identify(pid).ok().flatten();
        let own = own.and_then(|own| Some(self.host.footprint(own).ok()?.bytes));
        // One walk over all processes, whatever the number of reserves.
        let running = if watched.is_empty() { Vec::new() } else { self.host.running(&watched) };
        self.glance = Glance { at: Some(now), own, watched, running };
    }

    fn supervisor_status(&self, now: Moment) -> SupervisorStatus {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let gates = self.slots.values().filter_map(|slot| slot.gate_problem.clone());
        let problems = [self.journal.problem(), self.learned.problem(), self.disk_problem.as_deref()];
        let problems =
            problems.into_iter().flatten().map(str::to_owned).chain(self.metrics_listener.problem());
        let router = self.routing.listening.problem.iter().map(|problem| format!("router: {problem}"));
        let strays = self.strays.iter().map(|(_, stray)| format!("process {} to end", stray.pid));
        let (pace, holding) = self.giving_way.in_force();
        let waiting_for = gates.chain(router).chain(problems).chain(strays).collect();
        SupervisorStatus {
            pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now.since(self.started).as_secs_f64(),
            config: self.registry.file.display().to_string(),
            config_problem: self.registry_problem.clone(),
            footprint_bytes: self.glance.own.map(|bytes| bytes.0),
            waiting_for,
            yielding_to: self.yielding_to(),
            pace_percent: pace.map(|share| share.0),
            holding,
        }
    }

    /// Those that run now; where none does, those that were there a moment ago and may come back.
    fn yielding_to(&self) -> Vec<String> {
        let yield_to = self.registry.pressure.yield_to.iter();
        let running: Vec<String> =
            yield_to.filter(|name| self.glance.running.contains(name)).cloned().collect();
        if running.is_empty() { self.policy.yielding_to().to_vec() } else { running }
    }

    /// What keeps a model from being started, by what was last looked at.
    fn held_back(&self, model: &Model) -> Option<HeldBack> {
        let holds = Holds { policy: &self.policy, power: &self.power, panics: &self.panics };
        let yield_to = self.registry.pressure.yield_to.iter();
        let running: Vec<String> =
            yield_to.filter(|name| self.glance.running.contains(name)).cloned().collect();
        holds.on(&model.name, model.start, &running)
    }

    fn budget(&self) -> BudgetStatus {
        let models: Bytes = self.fleet.reserved().into_iter().map(|(_, bytes)| bytes).sum();
        balance(self.host.facts().memory, &self.registry.reserves, &self.glance.running, models)
    }

    fn model_status(&self, now: Moment, managed: &Managed, slot: &Slot) -> ModelStatus {
        let run = managed.state.run();
        let vitals = slot.run.as_ref().map(|tasks| &tasks.vitals);
        let footprint = slot.sample.map(|(_, footprint)| footprint);
        let model = &slot.model;
        let weights = slot.files.weights();
        let next_start = match &managed.state {
            State::Backoff { until, .. } => Some(until.since(now).as_secs_f64()),
            _ => None,
        };
        let (idle, stops_in) = slot.idleness(now, managed);
        ModelStatus {
            name: model.name.clone(),
            repo: model.source.to_string(),
            start: model.start,
            state: managed.state.name(),
            reason: managed.reason(),
            hint: managed.hint(),
            pid: run.map(|run| run.identity.pid),
            address: SocketAddr::new(self.registry.network.host, model.port).to_string(),
            gate: GateStatus {
                listening: slot.addresses.iter().map(ToString::to_string).collect(),
                problem: slot.gate_problem.clone(),
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
            running_repo: slot.run.as_ref().map(|run| run.spec.repo.clone()).filter(|repo| !repo.is_empty()),
            outdated: slot.run.as_ref().and_then(|run| run.outdated.clone()),
            held_back: self.held_back(model),
            ranks: vitals.map(|vitals| vitals.ranks()).unwrap_or_default(),
            memory: ModelMemoryStatus {
                estimate_bytes: estimate(managed, slot).map(|bytes| bytes.0),
                weights_bytes: weights.map(|bytes| bytes.0),
                forced: managed.state.forced(),
                overdraft_bytes: slot.overdraft.filter(|_| managed.state.forced()).map(|bytes| bytes.0),
                kv_limit_bytes: slot.plan.as_ref().map(|plan| plan.bounds.kv_limit.0),
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
            traffic: slot.before.add_to(slot.gate.traffic().status()),
        }
    }

    /// How far a load is: bytes read of the weights' bytes.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    fn progress(&self, managed: &Managed, weights: Option<Bytes>) -> Option<f64> {
        let State::Loading { run, .. } = &managed.state else { return None };
        let weights = weights.filter(|weights| *weights > Bytes::ZERO)?;
        let read = self.host.bytes_read(run.identity)?;
        Some((read.0 as f64 / weights.0 as f64).min(1.0))
    }
}

/// What is, or would be, reserved for a model.
fn estimate(managed: &Managed, slot: &Slot) -> Option<Bytes> {
    match managed.state.generation() {
        Some(_) => Some(managed.state.reserved()),
        None => match slot.plan.as_ref().and_then(|plan| plan.estimate.as_ref()) {
            Some(estimate) => Some(estimate.reserve()),
            None => slot.model.size,
        },
    }
}

/// The machine, measured now.
#[must_use]
pub fn host_status(host: &dyn Host) -> HostStatus {
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
