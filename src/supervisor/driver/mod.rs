//! The only place that acts: carries out effects by calling the part concerned, and turns the results into events.

mod adoption;
mod commands;
mod ending;
mod handover;
mod hours;
mod quiet;
mod reload;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use handover::Handover;
use quiet::Quiet;
use tokio::sync::mpsc;

use super::answers::Answers;
use super::capacity::{self, Capacity};
use super::inbox::Input;
use super::records::{Checkpoint, Note, Records, written};
use super::runs::{self, Found, Runs, Slot};
use crate::api::StateName;
use crate::clock::Moment;
use crate::fault;
use crate::gate::{Availability, Listening, Report};
use crate::host::{Host, Identity};
use crate::lifecycle::{Effect, Event, Fleet, Managed, Name, Signed};
use crate::registry::Registry;

/// Shorter gaps are just the time between reading the two clocks.
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);

pub(super) struct Parts {
    pub host: Arc<dyn Host>,
    pub registry: Registry,
    pub fleet: Fleet,
    pub runs: Runs,
    pub capacity: Capacity,
    pub answers: Answers,
    pub records: Records,
    pub inbox: mpsc::UnboundedSender<Input>,
}

/// The loop, with everything that it owns.
pub(super) struct Driver {
    host: Arc<dyn Host>,
    registry: Arc<Registry>,
    /// Why the file on disk is not the registry in effect.
    registry_problem: Option<String>,
    /// Modification time of the file on disk when it was last checked.
    registry_seen: Option<SystemTime>,
    fleet: Fleet,
    runs: Runs,
    capacity: Capacity,
    answers: Answers,
    records: Records,
    inbox: mpsc::UnboundedSender<Input>,
    finished: bool,
    /// When the regular upkeep is due next.
    house_due: Moment,
    /// Decides when to give the supervisor's own memory back.
    quiet: Quiet,
    handover: Option<Handover>,
    /// Total time that the machine has slept since its boot, as last seen.
    slept: Duration,
}

impl Driver {
    /// Opens the gates; nothing is started yet.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { host, registry, fleet, runs, capacity, answers, records, inbox } = parts;
        let slept = host.now().since(host.awake());
        let mut driver = Self {
            host,
            registry_problem: None,
            registry_seen: written(&registry.file),
            registry: Arc::new(registry),
            fleet,
            runs,
            capacity,
            answers,
            records,
            inbox,
            finished: false,
            house_due: Moment::default(),
            quiet: Quiet::default(),
            handover: None,
            slept,
        };
        driver.follow_models();
        driver
    }

    /// Takes over running backends, and starts always-on models.
    pub(super) fn boot(&mut self, found: Found) {
        let up = concat!("supervisor ", env!("CARGO_PKG_VERSION"), " is up");
        self.note([Note::new("up", up)]);
        let panics = self.capacity.look_for_panics(&self.registry);
        self.note(panics);
        self.adopt(found);
        self.look_at_programs();
        self.keep_hours();
        self.handle(Event::Boot);
        self.settle();
    }

    /// Time until something is due, at most `longest`.
    pub(super) fn idle_for(&self, longest: Duration) -> Duration {
        let due = self.fleet.deadline().into_iter().chain(self.capacity.next_look(&self.fleet));
        let due = due.fold(self.house_due, Moment::min);
        self.patience(due.since(self.host.now()).min(longest))
    }

    /// Does what is due; usually nothing, which costs nothing.
    pub(super) fn tick(&mut self) {
        let now = self.host.now();
        if self.fleet.deadline().is_some_and(|due| due <= now) {
            self.handle(Event::Tick);
        }
        if self.capacity.next_look(&self.fleet).is_some_and(|due| due <= now) {
            self.look();
        }
    }

    /// Ends every turn of the loop.
    pub(super) fn end_turn(&mut self) {
        self.keep_house();
        self.settle();
    }

    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Runs(runs::News::Event(event)) => {
                if matches!(event, Event::Of { signed: Signed::Answered, .. }) {
                    // Without a ready model programs are not checked, and requests wait for this one.
                    self.look_at_programs();
                }
                self.handle(event);
            }
            Input::Runs(runs::News::LogReopened(name, generation, done)) => {
                self.with_slot(&name, |slot| slot.log_reopened(generation, done));
            }
            Input::Runs(runs::News::StrayGone(name, who)) => self.stray_gone(&name, who),
            Input::Capacity(capacity::News::Power(power)) => {
                let steps = self.capacity.powered(power, &self.fleet);
                self.take_steps(steps);
            }
            Input::Capacity(capacity::News::Peers(answers)) => {
                let ranks = |name: &Name| self.runs.slot(name).map(Slot::ranks).unwrap_or_default();
                let judged = self.capacity.judge_peers(&self.registry, &self.fleet, &ranks, *answers);
                if let Some(event) = judged {
                    self.handle(event);
                }
            }
            Input::Ask(ask) => self.asked(ask),
            Input::Outcome(name, verb, outcome, answer) => self.done(&name, verb, outcome, answer),
            Input::Trimmed(name, freed, answer) => self.trimmed(&name, freed, answer),
            Input::Forgotten(name, freed, answer) => self.forgotten(&name, freed, answer),
            Input::Notified(sent) => {
                let note = self.answers.notified(sent);
                self.note(note);
            }
        }
    }

    /// Handles a report of a model's gate.
    pub(super) fn heard(&mut self, model: &str, report: Report) {
        let note = self.runs.slot_mut(model).and_then(|slot| slot.heard(report));
        self.note(note);
    }

    /// Handles a report of the router.
    pub(super) fn heard_router(&mut self, listening: Listening) {
        let note = self.runs.heard_router(listening);
        self.note(note);
    }

    /// Handles an event and all events that follow from it at once.
    fn handle(&mut self, event: Event) {
        let mut queue: VecDeque<_> = self.slept().into_iter().chain([event]).collect();
        while let Some(event) = queue.pop_front() {
            let before = self.states();
            let identity = |model: &Managed| Some((model.name.clone(), model.state.run()?.identity));
            let live: Vec<(Name, Identity)> = self.fleet.models().iter().filter_map(identity).collect();
            let live = || self.runs.footprints(&live);
            let mut gatekeeper = self.capacity.gatekeeper(&self.registry, &live);
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

    /// The state of every model; empty in release builds, which have no fault points.
    fn states(&self) -> Vec<(Name, StateName)> {
        if !cfg!(debug_assertions) {
            return Vec::new();
        }
        self.fleet.models().iter().map(|managed| (managed.name.clone(), managed.state.name())).collect()
    }

    /// The transitions since `before`, as "loading ready".
    fn ways_since(&self, before: &[(Name, StateName)]) -> Vec<String> {
        let ways = before.iter().filter_map(|(name, from)| {
            let to = self.fleet.get(name)?.state.name();
            (to != *from).then(|| format!("{from:?} {to:?}").to_lowercase())
        });
        ways.collect()
    }

    /// The event for a sleep of the machine since the last call. Comes before other events, so that deadlines are extended
    /// before they are checked.
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

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Ask { model, generation } => {
                self.with_slot(&model, Slot::end_run);
                return self.capacity.ask_peers(&self.registry, &model, generation);
            }
            Effect::Spawn { model, generation, reserved } => {
                let demand = self.capacity.demand(&model);
                let (start, lock) = ((generation, reserved), self.records.share_lock());
                let signed = match self.runs.spawn(&self.registry, demand, &model, start, lock) {
                    Ok(identity) => Signed::Spawned(identity),
                    Err(failure) => Signed::SpawnFailed(failure),
                };
                return Some(Event::Of { model, generation, signed });
            }
            Effect::Drain { model, generation } => self.with_slot(&model, |slot| slot.drain(generation)),
            Effect::Abort { model, generation, why } => {
                self.with_slot(&model, |slot| slot.abort(generation, &why));
            }
            Effect::Signal { model, run, signal } => {
                let note = self.runs.signal(&model, run.identity, signal);
                self.note(note);
            }
            Effect::Reply { waiter, outcome } => self.answers.reply(waiter, outcome),
            Effect::Note { model, kind, text, hint } => {
                let note = match model {
                    Some(model) => Note::of(&model, kind, text),
                    None => Note::new(kind, text),
                };
                self.note([match hint {
                    Some(hint) => note.hint(hint),
                    None => note,
                }]);
            }
            Effect::Finished => self.finished = true,
        }
        None
    }

    /// Appends events to the history.
    pub(super) fn note(&mut self, notes: impl IntoIterator<Item = Note>) {
        notes.into_iter().for_each(|note| self.records.note(note));
    }

    /// Passes new events on to the notifier.
    fn settle(&mut self) {
        let fresh = self.records.fresh();
        if !fresh.is_empty() {
            self.quiet.stir(self.host.now());
            self.answers.hear(&fresh, &self.registry);
        }
    }

    /// Tells every gate its availability, by the state of its model.
    fn publish(&mut self) {
        for managed in self.fleet.models() {
            self.capacity.loaded(managed);
        }
        let load_time = |name: &Name| self.capacity.load_time(name);
        let leaves = Availability::Loading { ready_at: None, hold: true };
        let instead = self.handover.is_some().then_some(leaves);
        let instead = instead.or_else(|| self.capacity.giving_way().instead_of_ready());
        self.runs.publish(&self.fleet, load_time, instead.as_ref());
        self.save(false);
    }

    /// Writes checkpoints that have changed in more than counters; with `counters`, all that have changed. Forgets models
    /// that are no longer in the registry and have no run.
    fn save(&mut self, counters: bool) {
        let run = &self.registry.paths.run;
        let now = self.fleet.models().iter().filter_map(|managed| {
            let name = &managed.name;
            let slot = self.runs.slot(name)?;
            let counts = self.records.since_boot(name, slot.gate().traffic().status().counts);
            let overdraft = self.capacity.demand(name).and_then(capacity::Demand::overdraft);
            let (lent, last) = (slot.usage().lent(), slot.usage().last());
            let boot_id = self.records.boot_id();
            Some((name.clone(), Checkpoint::of(managed, overdraft, lent, last, counts, boot_id)))
        });
        let now = now.collect();
        self.records.save(run, now, counters);
        for name in self.runs.close_removed(&self.fleet) {
            self.capacity.forget_model(&name);
            self.records.forget_model(run, &name);
        }
    }

    /// Compares a live run with what the registry would start now.
    fn look_for_differences(&mut self, name: &Name) {
        if let Some(slot) = self.runs.slot_mut(name) {
            slot.look_for_differences(&self.registry, self.capacity.demand(name));
        }
    }

    /// Calls `act` with the slot of a model, if there is one.
    fn with_slot(&mut self, name: &Name, act: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.runs.slot_mut(name) {
            act(slot);
        }
    }
}
