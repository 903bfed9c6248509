//! The only place that acts: carries effects out and turns what comes of them into events.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::admit::{self, Gatekeeper, Holds};
use super::awake::Awake;
use super::exits;
use super::give_way::GivingWay;
use super::handle::{Input, events_of};
use super::journal::Journal;
use super::kept::Kept;
use super::learned::Learned;
use super::leave::Leaving;
use super::lock::Lock;
use super::panics::Panics;
use super::plan::{Files, Plan};
use super::power::PowerState;
use super::rest::Rest;
use super::router::Routing;
use super::slot::{RunTasks, Slot, gate_config, log_file};
use super::used::Used;
use super::view::Glance;
use crate::api::paths::link_path;
use crate::api::{EventRecord, StateName};
use crate::backend::launch::{self, Launch};
use crate::backend::probe::{Probe, Vitals};
use crate::backend::spec::Spec;
use crate::backend::weights;
use crate::backend::{exec, logs, record};
use crate::clock::Moment;
use crate::fault;
use crate::gate::{Availability, Gate, Report};
use crate::host::{Host, Identity, Priority, Signal};
use crate::lifecycle::{
    Effect, Event, Failure, FailureKind, Fleet, Generation, Idle, Name, Outcome, Signed, State, WaiterId,
};
use crate::memory::Platform;
use crate::memory::pressure::Policy;
use crate::memory::upkeep::Upkeep;
use crate::metrics::{self, Noted};
use crate::notify::{Notifier, Trouble};
use crate::python::profile::Profiles;
use crate::registry::{Model, Registry};
use crate::units::Bytes;

/// Less is the distance at which the two clocks are read.
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);

/// Everything that one loop owns.
pub(super) struct Driver {
    pub host: Arc<dyn Host>,
    pub registry: Arc<Registry>,
    /// Why the file on disk is not the registry in force.
    pub registry_problem: Option<String>,
    /// When the file on disk, as it was when it was last looked at, was written.
    pub registry_seen: Option<SystemTime>,
    pub binary: PathBuf,
    pub started: Moment,
    pub fleet: Fleet,
    pub slots: HashMap<Name, Slot>,
    pub journal: Journal,
    /// How often each kind of event was noted, by model.
    pub noted: Noted,
    /// The listener of the registry's `[metrics]`.
    pub metrics_listener: metrics::Listener,
    /// The one address of all models.
    pub routing: Routing,
    pub learned: Learned,
    /// Tells the owner of what matters.
    pub notifier: Notifier,
    /// What of the disk and of the keys was seen last.
    pub trouble: Trouble,
    pub followers: Vec<mpsc::Sender<EventRecord>>,
    pub replies: HashMap<WaiterId, oneshot::Sender<Outcome>>,
    pub next_waiter: u64,
    pub inbox: mpsc::UnboundedSender<Input>,
    pub reports: mpsc::UnboundedSender<(String, Report)>,
    pub finished: bool,
    /// What is done about memory pressure and for programs that the models yield to.
    pub policy: Policy,
    /// What is in force while such a program runs.
    pub giving_way: GivingWay,
    /// The rung that backends are on.
    pub priority: Priority,
    /// What the machine's power allows.
    pub power: PowerState,
    /// Idle sleep is held off through it.
    pub awake: Awake,
    /// What was looked at for the last document.
    pub glance: Glance,
    /// When the next look at memory is due, if any model is ready then.
    pub look_due: Moment,
    /// Processes of ours that belong to no run and are being ended.
    pub strays: Vec<(Name, Identity)>,
    /// When the next look at files is due.
    pub upkeep: Moment,
    /// Whether memory is to be given back once all is quiet.
    pub rest: Rest,
    /// A hand-over under way.
    pub leaving: Option<Leaving>,
    /// Reports of kernel panics that nobody has answered for yet.
    pub panics: Panics,
    /// Whether the last start was refused for nothing but what is available at the moment.
    pub short_now: bool,
    /// How long the machine has slept so far.
    pub slept: Duration,
    /// Why the last write of what is kept failed, if it did.
    pub disk_problem: Option<String>,
    /// Shared with each exec step until its record is there.
    pub lock: Arc<Lock>,
}

impl Driver {
    /// Takes an event in, and everything that follows from it at once.
    pub fn handle(&mut self, event: Event) {
        let mut queue: std::collections::VecDeque<_> = self.slept().into_iter().chain([event]).collect();
        while let Some(event) = queue.pop_front() {
            let before = self.states();
            let mut gatekeeper = Gatekeeper {
                registry: &self.registry,
                host: &*self.host,
                slots: &mut self.slots,
                learned: &self.learned,
                holds: Holds { policy: &self.policy, power: &self.power, panics: &self.panics },
                short_now: &mut self.short_now,
                live: self
                    .fleet
                    .models()
                    .iter()
                    .filter_map(|model| Some((model.name.clone(), model.state.run()?.identity)))
                    .collect(),
            };
            let effects = self.fleet.step(self.host.now(), event, &mut gatekeeper);
            let ways = self.ways_since(&before);
            ways.iter().for_each(|way| fault::point(&format!("before {way}")));
            for effect in effects {
                queue.extend(self.carry_out(effect));
            }
            ways.iter().for_each(|way| fault::point(&format!("after {way}")));
        }
        self.publish();
    }

    /// What every model is doing; nothing where nobody may ask for it.
    fn states(&self) -> Vec<(Name, StateName)> {
        if !cfg!(debug_assertions) {
            return Vec::new();
        }
        self.fleet.models().iter().map(|managed| (managed.name.clone(), managed.state.name())).collect()
    }

    /// The ways from one state to another that models have gone since.
    fn ways_since(&self, before: &[(Name, StateName)]) -> Vec<String> {
        let ways = before.iter().filter_map(|(name, from)| {
            let to = self.fleet.get(name)?.state.name();
            (to != *from).then(|| format!("{from:?} {to:?}").to_lowercase())
        });
        ways.collect()
    }

    /// The machine slept since the last look: what waits for its work is told before any deadline is looked at.
    fn slept(&mut self) -> Option<Event> {
        let slept = self.host.now().since(self.host.awake());
        let length = slept.saturating_sub(self.slept);
        if length < SHORTEST_SLEEP {
            return None;
        }
        self.slept = slept;
        tracing::info!(seconds = length.as_secs(), "the machine slept");
        Some(Event::Slept(length))
    }

    /// Registers an asker; its command carries the id.
    pub fn waiter(&mut self) -> (WaiterId, oneshot::Receiver<Outcome>) {
        self.next_waiter += 1;
        let (reply, outcome) = oneshot::channel();
        let id = WaiterId(self.next_waiter);
        self.replies.insert(id, reply);
        (id, outcome)
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Ask { model, generation } => return self.ask_others(&model, generation),
            Effect::Spawn { model, generation, reserved } => {
                let signed = match self.spawn(&model, generation, reserved) {
                    Ok(identity) => Signed::Spawned(identity),
                    Err(failure) => Signed::SpawnFailed(failure),
                };
                return Some(Event::Of { model, generation, signed });
            }
            Effect::Drain { model, generation } => self.drain(&model, generation),
            Effect::Abort { model, generation, why } => {
                if let Some(slot) = self.slots.get(&model) {
                    slot.gate.abort(generation.0, &why);
                }
            }
            Effect::Signal { model, run, signal } => self.signal(&model, run.identity, signal),
            Effect::Reply { waiter, outcome } => {
                if let Some(reply) = self.replies.remove(&waiter) {
                    // The asker may have gone.
                    let _ = reply.send(outcome);
                }
            }
            Effect::Note { model, kind, text, hint } => {
                self.note_hinted(model.as_deref(), kind, &text, hint.as_deref());
            }
            Effect::Finished => self.finished = true,
        }
        None
    }

    /// Writes into the history, the log, and to those who follow.
    pub fn note(&mut self, model: Option<&str>, kind: &str, text: &str) {
        self.note_hinted(model, kind, text, None);
    }

    /// The same, with what to do about it.
    pub fn note_hinted(&mut self, model: Option<&str>, kind: &str, text: &str, hint: Option<&str>) {
        tracing::info!(model, kind, "{text}");
        self.rest.stir(self.host.now());
        *self.noted.entry((model.map(str::to_owned), kind.to_owned())).or_default() += 1;
        let record = self.journal.note(SystemTime::now(), model, kind, text, hint);
        self.notifier.heard(&record, &self.registry);
        // A follower that fell behind or left is dropped: it asks again from its last number.
        self.followers.retain(|follower| follower.try_send(record.clone()).is_ok());
    }

    /// Tells every gate what follows from its model's state.
    pub fn publish(&mut self) {
        let now = self.host.now();
        let leaves = Availability::Loading { ready_at: None, hold: true };
        let instead = self.leaving.is_some().then_some(leaves).or_else(|| self.giving_way.instead_of_ready());
        for managed in self.fleet.models() {
            let Some(slot) = self.slots.get_mut(&managed.name) else { continue };
            if managed.state.generation().is_none() {
                slot.run = None;
                slot.sample = None;
            }
            if let State::Ready { run, since } = &managed.state
                && !run.adopted
            {
                self.learned.loaded(&managed.name, run.generation, since.since(run.spawned));
            }
            slot.follow_lent(managed);
            slot.publish(managed, now, self.learned.load_time(&managed.name), instead.as_ref());
        }
        self.keep(false);
    }

    /// Where MLX runs on this machine.
    pub fn platform(&self) -> Platform {
        Platform::of(&self.host.memory().unwrap_or_default())
    }

    /// Opens the front door of a model.
    pub fn open_slot(&mut self, model: Arc<Model>) {
        let mut files = Files::default();
        files.look(&model, &Profiles::of(&self.registry));
        let plan = admit::plan(&self.registry, &model, &files, self.platform(), &self.learned).ok();
        let config = gate_config(&self.registry, &model, &files, plan.as_ref());
        let (availability, seen) = watch::channel(Availability::Offline);
        let gate = Gate::spawn(config, seen, self.reports.clone());
        let name = Name::from(model.name.as_str());
        let followed = self.awake.follow(gate.traffic().clone());
        let slot = Slot {
            files,
            plan,
            model,
            gate,
            followed,
            availability,
            addresses: Vec::new(),
            gate_problem: None,
            run: None,
            sample: None,
            overdraft: None,
            lent: None,
            used: Used::default(),
            opens: None,
            before: Kept::default(),
            kept: Kept::default(),
        };
        self.slots.insert(name, slot);
    }

    /// Makes the process of a run and everything that watches it.
    fn spawn(&mut self, name: &Name, generation: Generation, reserved: Bytes) -> Result<Identity, Failure> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| spawn_failure(&what, &error)
        };
        if let Some(stray) = self.stray_of(name) {
            let text = format!("an earlier process of it, {}, is still ending", stray.pid);
            return Err(Failure::new(FailureKind::NotPrepared, text));
        }
        let held = self.lock.share().map_err(failed("cannot share the lock"))?;
        let secret = launch::secret().map_err(failed("no randomness for its secret"))?;
        let spec = self.spec(name, generation, reserved, secret)?;
        if let Some(instead) = self.slots.get(name).and_then(|slot| weights::instead(&slot.model.source)) {
            tracing::warn!(model = &**name, "{instead}");
        }
        let run = &self.registry.paths.run;
        logs::rotate(&spec.log).map_err(failed("cannot rotate its log"))?;
        record::forget(run, name).map_err(failed("cannot clear its record"))?;
        fault::point("spawn cleared");
        let file = record::write_spec(run, &spec).map_err(failed("cannot write its spec"))?;
        fault::point("spawn written");
        // It may have said its last before we know that it is there.
        let log_start = logs::mark(&spec.log);
        let identity = exec::spawn(&self.binary, &file, held).map_err(failed("cannot make a process"))?;
        fault::point("spawn made");
        if self.priority != Priority::Normal
            && let Err(error) = self.host.set_priority(identity, self.priority)
        {
            tracing::warn!(%error, model = &**name, "a new backend keeps its priority");
        }
        self.attend(name, generation, identity, spec, log_start);
        Ok(identity)
    }

    /// What a run of this model is started with, by the registry in force.
    fn spec(
        &self,
        name: &Name,
        generation: Generation,
        reserved: Bytes,
        secret: String,
    ) -> Result<Spec, Failure> {
        let slot =
            self.slots.get(name).ok_or_else(|| Failure::new(FailureKind::SpawnFailed, "no such model"))?;
        let prepared = admit::prepare(&self.registry, &slot.model)?;
        // Admission made it in the same step; a model that it knows nothing of is held to the registry's bounds.
        let mut limits = slot.plan.as_ref().map(Plan::limits).unwrap_or_default();
        limits.prompt_store = slot.model.memory.prompt_store;
        let paths = &self.registry.paths;
        let log = log_file(&paths.logs, name);
        let launch = Launch {
            model: &slot.model,
            served: &prepared.served,
            draft: weights::draft(&slot.model),
            environment: &self.registry.agent.environment,
            python: &prepared.python,
            binary: &self.binary,
            generation: generation.0,
            reserved,
            limits: &limits,
            run: &paths.run,
            state: &paths.state,
            link: link_path(&paths.run, name),
            log,
            cwd: &paths.root,
            secret,
        };
        Ok(launch.spec(|name| std::env::var(name).ok()))
    }

    /// Compares a live run with what the registry in force would start.
    pub fn look_for_differences(&mut self, name: &Name) {
        let Some(started) = self.slots.get(name).and_then(|slot| slot.run.as_ref()).map(|run| &run.spec)
        else {
            return;
        };
        let (generation, reserved) = (Generation(started.generation), Bytes(started.reserved));
        // While something that a start needs is missing, nothing can be said.
        let outdated = match self.spec(name, generation, reserved, String::new()) {
            Ok(wanted) => launch::difference(started, &wanted),
            // It cannot be started as the registry has it now: what that would be is said all the same.
            Err(missing) if missing.kind == FailureKind::FilesMissing => match self.slots.get(name) {
                Some(slot) if slot.model.source.to_string() != started.repo => {
                    Some(format!("{} → {}", started.repo, slot.model.source))
                }
                _ => return,
            },
            Err(_) => return,
        };
        if let Some(run) = self.slots.get_mut(name).and_then(|slot| slot.run.as_mut()) {
            run.outdated = outdated;
        }
    }

    /// Starts what watches a run: also one that was adopted. What its log says from `log_start` on is of this run.
    pub fn attend(
        &mut self,
        name: &Name,
        generation: Generation,
        identity: Identity,
        spec: Spec,
        log_start: logs::Mark,
    ) {
        let exit = exits::watch(self.host.clone(), identity);
        let events = events_of(&self.inbox);
        let Some(slot) = self.slots.get_mut(name) else { return };
        let (questions, asked) = mpsc::channel(8);
        let (suspicion, vitals) = (Arc::new(Notify::new()), Arc::new(Vitals::default()));
        let traffic = slot.gate.traffic().clone();
        let model = name.clone();
        let findings = events.clone();
        let probe = Probe {
            host: self.host.clone(),
            identity,
            generation: generation.0,
            link: link_path(&self.registry.paths.run, name),
            secret: spec.secret.clone(),
            health: slot.model.health.clone(),
            activity: Box::new(move || traffic.progress()),
            findings: Box::new(move |signed| {
                findings(Event::Of { model: model.clone(), generation, signed })
            }),
            suspicion: suspicion.clone(),
            questions: asked,
            pace: self.giving_way.follow_pace(),
            vitals: vitals.clone(),
        };
        let log = log_file(&self.registry.paths.logs, name);
        let last_words = exits::LastWords {
            host: self.host.clone(),
            identity,
            generation,
            log,
            log_start,
            run: self.registry.paths.run.clone(),
            spec: spec.clone(),
        };
        let model = name.clone();
        let end = tokio::spawn(async move {
            let signed = last_words.wait(exit).await;
            events(Event::Of { model, generation, signed });
        });
        let tasks = vec![tokio::spawn(probe.run()).abort_handle(), end.abort_handle()];
        slot.run = Some(RunTasks {
            generation,
            secret: spec.secret.as_str().into(),
            spec,
            outdated: None,
            suspicion,
            questions,
            vitals,
            tasks,
            upkeep: Upkeep::default(),
            idle: Idle::default(),
            reopening: false,
        });
    }

    /// Says `Drained` when nothing is in flight any more.
    fn drain(&mut self, name: &Name, generation: Generation) {
        let events = events_of(&self.inbox);
        let Some(slot) = self.slots.get_mut(name) else { return };
        let traffic = slot.gate.traffic().clone();
        let model = name.clone();
        let task = tokio::spawn(async move {
            traffic.drained().await;
            events(Event::Of { model, generation, signed: Signed::Drained });
        });
        if let Some(run) = &mut slot.run {
            run.tasks.push(task.abort_handle());
        }
    }

    fn signal(&mut self, name: &Name, identity: Identity, signal: Signal) {
        if let Err(error) = self.host.signal(identity, signal) {
            let text = format!("process {} could not be signalled: {error}", identity.pid);
            self.note(Some(name), "signal_failed", &text);
        }
    }

    /// What a gate reports.
    pub fn heard(&mut self, name: &str, report: Report) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        match report {
            Report::Listening { addresses, problem } => {
                let news = addresses != slot.addresses;
                slot.addresses = addresses;
                if news && !slot.addresses.is_empty() {
                    let at: Vec<_> = slot.addresses.iter().map(|at| format!("http://{at}/v1")).collect();
                    tracing::info!("the gate of {name} listens at {}", at.join(" and "));
                }
                if slot.gate_problem == problem {
                    return;
                }
                slot.gate_problem.clone_from(&problem);
                let (kind, text) = match problem {
                    Some(problem) => ("gate_waits", problem),
                    None => ("gate_listens", "the gate listens on its address".to_owned()),
                };
                self.note(Some(name), kind, &text);
            }
            Report::Suspect { generation, why } => {
                if let Some(run) = slot.run.as_ref().filter(|run| run.generation.0 == generation) {
                    tracing::debug!(name, why, "suspect");
                    run.suspicion.notify_one();
                }
            }
        }
    }
}

/// What the system's refusal to make a process means.
fn spawn_failure(what: &str, error: &io::Error) -> Failure {
    let failure = Failure::new(FailureKind::SpawnFailed, format!("{what}: {error}"));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            waits(failure).hint("free disk space; it is tried again")
        }
        io::ErrorKind::PermissionDenied => failure.hint("mlxctl doctor names the file"),
        _ if error.raw_os_error() == Some(libc::EAGAIN) => {
            waits(failure).hint("the system's limit of processes is reached; it is tried again")
        }
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            waits(failure).hint("the limit of open files is reached; it is tried again")
        }
        _ => failure,
    }
}

/// The model is not to blame: it is tried again and never quarantined.
fn waits(failure: Failure) -> Failure {
    Failure { kind: FailureKind::NotPrepared, ..failure }
}
