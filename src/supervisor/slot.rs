//! What the driver keeps of one model beside its life: its gate, its run's tasks, what was measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::awake::Followed;
use super::kept::Kept;
use super::plan::{Files, Plan};
use super::used::Used;
use crate::backend::probe::{Question, Vitals};
use crate::backend::spec::Spec;
use crate::clock::Moment;
use crate::gate::{Availability, Gate, GateConfig, Upstream};
use crate::host::Footprint;
use crate::lifecycle::{FailureKind, Generation, Idle, Lent, Managed, Next, State, StopReason};
use crate::memory::Estimate;
use crate::memory::upkeep::Upkeep;
use crate::registry::{Model, Registry, Start};
use crate::units::Bytes;

/// One model's things.
pub(super) struct Slot {
    /// The registry's entry.
    pub model: Arc<Model>,
    /// Its front door.
    pub gate: Gate,
    /// Keeps the machine awake for its requests.
    #[expect(dead_code, reason = "it is only there to end with the gate")]
    pub followed: Followed,
    /// What the gate may do.
    pub availability: watch::Sender<Availability>,
    /// Where the gate listens, and what it waits for.
    pub addresses: Vec<SocketAddr>,
    /// See [`Slot::addresses`].
    pub gate_problem: Option<String>,
    /// What its files say.
    pub files: Files,
    /// What its last run, or the next one, takes and is held to.
    pub plan: Option<Plan>,
    /// Of the live run.
    pub run: Option<RunTasks>,
    /// Last measurement of the live run.
    pub sample: Option<(Moment, Footprint)>,
    /// By how much its last start, which was forced, was over what there was.
    pub overdraft: Option<Bytes>,
    /// The time that a person gave it, if one did.
    pub lent: Option<Lent>,
    /// When it was last of use.
    pub used: Used,
    /// When its hours begin, while it is outside of them.
    pub opens: Option<Moment>,
    /// What supervisors before this one knew of it.
    pub before: Kept,
    /// What is on disk for the one after this.
    pub kept: Kept,
}

/// What runs beside a backend; ends when it is dropped.
pub(super) struct RunTasks {
    /// Of which run.
    pub generation: Generation,
    /// The launcher's secret.
    pub secret: Arc<str>,
    /// What it was started with.
    pub spec: Spec,
    /// How it differs from the registry in force, if it does.
    pub outdated: Option<String>,
    /// Look at it now.
    pub suspicion: Arc<Notify>,
    /// To the launcher.
    pub questions: mpsc::Sender<Question>,
    /// What the probe sees.
    pub vitals: Arc<Vitals>,
    /// How far its ceiling and idle trims are.
    pub upkeep: Upkeep,
    /// How far its end by itself is.
    pub idle: Idle,
    /// Probe, exit watch, drain.
    pub tasks: Vec<AbortHandle>,
    /// The launcher was asked to open a new log, and has not answered yet.
    pub reopening: bool,
}

impl Drop for RunTasks {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The gate's part of the registry.
pub(super) fn gate_config(
    registry: &Registry,
    model: &Model,
    files: &Files,
    plan: Option<&Plan>,
) -> GateConfig {
    let mut accepted = vec![model.name.clone()];
    accepted.extend(model.aliases.iter().cloned());
    accepted.push(model.source.to_string());
    GateConfig {
        name: model.name.clone(),
        accepted,
        presets: model.presets.clone(),
        vocabulary: files.vocabulary,
        variables: match &model.server.chat_template {
            Some(template) => crate::gate::template::variables(template),
            None => files.variables.clone(),
        },
        start: model.start,
        port: model.port,
        network: registry.network.clone(),
        limits: model.limits.clone(),
        default_tokens: model.server.max_tokens.unwrap_or(DEFAULT_TOKENS),
        context: plan.map(|plan| plan.bounds.context).or(model.memory.context),
        // Ranks do not.
        counted: model.cluster.is_none(),
        keys: keys_file(registry),
        access_log: log_file(&registry.paths.logs, &format!("{}.access", model.name)),
    }
}

/// The keys of all gates.
pub(super) fn keys_file(registry: &Registry) -> std::path::PathBuf {
    registry.paths.state.join("keys.json")
}

/// `--max-tokens` of `mlx_lm.server` where it is not given (0.32.2).
const DEFAULT_TOKENS: u32 = 512;

/// `<logs>/<name>.log`.
pub(super) fn log_file(logs: &Path, name: &str) -> std::path::PathBuf {
    logs.join(format!("{name}.log"))
}

impl Slot {
    /// What its live run takes on this machine. `leader`: what the OS charges its process; ranks lead sessions of their
    /// own, and those that are here count as they were last heard of.
    pub fn charged(&self, leader: Footprint) -> Footprint {
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

    /// What it takes on a machine of its cluster; `None`: it is not one of them, or nobody knows.
    pub fn share(&self, host: &str) -> Option<&Estimate> {
        let hosts = &self.plan.as_ref()?.hosts;
        hosts.iter().find(|share| share.host == host).map(|share| &share.estimate)
    }

    /// Tells the gate what follows from the model's state. `load_time`: what earlier loads took. `instead`: what is said of
    /// a model that is ready while nothing new is begun.
    pub fn publish(
        &self,
        managed: &Managed,
        now: Moment,
        load_time: Option<Duration>,
        instead: Option<&Availability>,
    ) {
        let wanted = match self.available(managed, now, load_time) {
            Availability::Ready(upstream) => instead.cloned().unwrap_or(Availability::Ready(upstream)),
            other => other,
        };
        self.availability.send_if_modified(|current| {
            let changed = *current != wanted;
            *current = wanted;
            changed
        });
    }

    fn available(&self, managed: &Managed, now: Moment, load_time: Option<Duration>) -> Availability {
        // A run that was found ready will be so again in a moment.
        let adopted = managed.state.run().is_some_and(|run| run.adopted);
        let hold = managed.policy.start == Start::Always || adopted;
        let from_now = load_time.map(|time| now.after(time));
        match &managed.state {
            State::Stopped { why: StopReason::Hours(until) }
            | State::Draining { next: Next::Stop(StopReason::Hours(until)), .. }
            | State::Stopping { next: Next::Stop(StopReason::Hours(until)), .. } => {
                let hours = self.model.hours.as_ref().map(ToString::to_string).unwrap_or_default();
                Availability::Asleep { hours, until: *until, opens: self.opens.unwrap_or(now) }
            }
            State::Stopped { .. } => Availability::Offline,
            State::Asking { .. } | State::Spawning { .. } => {
                Availability::Loading { ready_at: from_now, hold }
            }
            State::Loading { run, .. } => {
                Availability::Loading { ready_at: load_time.map(|time| run.spawned.after(time)), hold }
            }
            State::Ready { run, .. } => match (run.port, &self.run) {
                (Some(port), Some(tasks)) => Availability::Ready(Upstream {
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                    secret: tasks.secret.clone(),
                    generation: run.generation.0,
                }),
                _ => Availability::Loading { ready_at: None, hold },
            },
            State::Draining { next, .. } | State::Stopping { next, .. } => match next {
                Next::Stop(
                    StopReason::Shutdown
                    | StopReason::Removed
                    | StopReason::ByHand
                    | StopReason::Pressure
                    | StopReason::Power
                    | StopReason::Idle(_)
                    | StopReason::TimeOver(_)
                    | StopReason::Hours(_)
                    | StopReason::NeverStarted,
                ) => Availability::Draining,
                Next::Restart { .. } => Availability::Loading { ready_at: from_now, hold: true },
                Next::Recover(_) => Availability::Loading { ready_at: from_now, hold },
            },
            State::Backoff { last, .. } if last.kind == FailureKind::Refused => {
                Availability::Refused { why: last.text.clone() }
            }
            State::Backoff { last, .. } if last.kind == FailureKind::NotPrepared => {
                Availability::Failed { why: last.text.clone() }
            }
            State::Backoff { until, .. } => {
                Availability::Loading { ready_at: Some(until.after(load_time.unwrap_or_default())), hold }
            }
            State::Failed { last } => Availability::Failed { why: last.text.clone() },
        }
    }
}
