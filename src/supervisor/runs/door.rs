//! The front door of one model: its gate, and what the gate is told, from the registry and from the model's state.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::awake::{Awake, Followed};
use crate::clock::Moment;
use crate::clock::hours::Hours;
use crate::gate::{Availability, Gate, GateConfig, Report, Upstream};
use crate::lifecycle::{FailureKind, Managed, Name, Next, State, StopReason};
use crate::registry::{Model, Registry, Start};
use crate::supervisor::capacity::Demand;
use crate::supervisor::records::{Note, keys_file, log_file};

/// A gate, with its last report.
pub(super) struct Door {
    gate: Gate,
    /// Keeps the machine awake during its requests.
    #[expect(dead_code, reason = "only dropped, together with the gate")]
    followed: Followed,
    /// What the gate does with requests now.
    availability: watch::Sender<Availability>,
    addresses: Vec<SocketAddr>,
    /// Why it does not listen everywhere it should.
    problem: Option<String>,
}

impl Door {
    /// Opens the gate, offline at first.
    pub(super) fn open(
        registry: &Registry,
        model: &Model,
        demand: Option<&Demand>,
        awake: &Awake,
        reports: mpsc::UnboundedSender<(String, Report)>,
    ) -> Self {
        let (availability, seen) = watch::channel(Availability::Offline);
        let gate = Gate::spawn(gate_config(registry, model, demand), seen, reports);
        let followed = awake.follow(gate.traffic().clone());
        Self { gate, followed, availability, addresses: Vec::new(), problem: None }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Why it does not listen everywhere it should; `None`: it does.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Follows a changed registry entry.
    pub(super) fn follow(&self, registry: &Registry, model: &Model, demand: Option<&Demand>) {
        self.gate.reconfigure(gate_config(registry, model, demand));
    }

    /// Handles a report of where the gate listens, and of its problem.
    pub(super) fn listens(
        &mut self,
        name: &Name,
        addresses: Vec<SocketAddr>,
        problem: Option<String>,
    ) -> Option<Note> {
        let news = addresses != self.addresses;
        self.addresses = addresses;
        if news && !self.addresses.is_empty() {
            let at: Vec<_> = self.addresses.iter().map(|at| format!("http://{at}/v1")).collect();
            tracing::info!("the gate of {name} listens at {}", at.join(" and "));
        }
        if self.problem == problem {
            return None;
        }
        self.problem.clone_from(&problem);
        Some(match problem {
            Some(problem) => Note::of(name, "gate_waits", problem),
            None => Note::of(name, "gate_listens", "the gate listens on its address"),
        })
    }

    /// Tells the gate its availability. `instead` replaces that of a ready model while no new requests may start.
    pub(super) fn publish(&self, seen: &Seen<'_>, instead: Option<&Availability>) {
        let wanted = match seen.availability() {
            Availability::Ready(upstream) => instead.cloned().unwrap_or(Availability::Ready(upstream)),
            other => other,
        };
        self.availability.send_if_modified(|current| {
            let changed = *current != wanted;
            *current = wanted;
            changed
        });
    }

    /// Has the gate tell waiting clients to come back later.
    pub(super) fn leave(&self) {
        self.availability.send_replace(Availability::Draining);
    }

    pub(super) fn close(self) -> impl Future<Output = ()> {
        self.gate.close()
    }
}

/// Default of `--max-tokens` in `mlx_lm.server` (0.32.2).
const DEFAULT_TOKENS: u32 = 512;

/// The gate's part of the registry.
fn gate_config(registry: &Registry, model: &Model, demand: Option<&Demand>) -> GateConfig {
    let (files, plan) = (demand.map(Demand::files), demand.and_then(Demand::plan));
    let mut accepted = vec![model.name.clone()];
    accepted.extend(model.aliases.iter().cloned());
    accepted.push(model.source.to_string());
    GateConfig {
        name: model.name.clone(),
        accepted,
        presets: model.presets.clone(),
        vocabulary: files.and_then(|files| files.vocabulary),
        // A profile does not read the template that the registry uses instead of the model's own.
        variables: files
            .filter(|_| model.server.chat_template.is_none())
            .and_then(|files| files.variables.clone()),
        start: model.start,
        port: model.port,
        network: registry.network.clone(),
        limits: model.limits.clone(),
        default_tokens: model.server.max_tokens.unwrap_or(DEFAULT_TOKENS),
        context: plan.map(|plan| plan.bounds.context).or(model.memory.context),
        // The ranks of a cluster do not count tokens.
        counted: model.cluster.is_none(),
        keys: keys_file(registry),
        access_log: log_file(&registry.paths.logs, &format!("{}.access", model.name)),
    }
}

/// What the availability of a gate is derived from.
pub(super) struct Seen<'a> {
    pub managed: &'a Managed,
    /// The secret of its live run.
    pub secret: Option<&'a Arc<str>>,
    pub now: Moment,
    /// How long the last load took; `None`: not known.
    pub load_time: Option<Duration>,
    /// While it is outside its hours: the hours, and when they begin.
    pub hours: Option<(&'a Hours, Moment)>,
}

impl Seen<'_> {
    fn availability(&self) -> Availability {
        let Self { managed, secret, now, load_time, hours } = *self;
        // An adopted run was ready before and soon will be again.
        let adopted = managed.state.run().is_some_and(|run| run.adopted);
        let hold = managed.policy.start == Start::Always || adopted;
        let from_now = load_time.map(|time| now.after(time));
        match &managed.state {
            State::Stopped { why: StopReason::Hours(until) }
            | State::Draining { next: Next::Stop(StopReason::Hours(until)), .. }
            | State::Stopping { next: Next::Stop(StopReason::Hours(until)), .. } => {
                let (hours, opens) =
                    hours.map_or((String::new(), now), |(hours, opens)| (hours.to_string(), opens));
                Availability::Asleep { hours, until: *until, opens }
            }
            State::Stopped { .. } => Availability::Offline,
            State::Asking { .. } | State::Spawning { .. } => {
                Availability::Loading { ready_at: from_now, hold }
            }
            State::Loading { run, .. } => {
                Availability::Loading { ready_at: load_time.map(|time| run.spawned.after(time)), hold }
            }
            State::Ready { run, .. } => match (run.port, secret) {
                (Some(port), Some(secret)) => Availability::Ready(Upstream {
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                    secret: secret.clone(),
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
