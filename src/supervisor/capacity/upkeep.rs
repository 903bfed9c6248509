//! What is done about memory while models run: pressure, programs that the models yield to, ceilings, idle trims; and
//! what runs show of what they really take. Decisions are those of [`crate::memory`]; here they are fed.

use super::demand::Demand;
use super::learned::Learned;
use super::step::Step;
use crate::clock::Moment;
use crate::host::Footprint;
use crate::lifecycle::{Event, Failure, FailureKind, Generation, Name, Signed, StopReason};
use crate::memory::Platform;
use crate::memory::learn::Learned as Footprints;
use crate::memory::pressure::{Action, Running};
use crate::memory::upkeep::{self, Limits, Now, Why};
use crate::supervisor::records::Note;
use crate::units::Bytes;

/// A run that is ready, as it is now.
pub(crate) struct ReadyRun {
    pub name: Name,
    pub generation: Generation,
    /// All of its processes on this machine.
    pub footprint: Footprint,
    /// Requests in flight.
    pub in_flight: u64,
    /// Since the supervisor has come up.
    pub requests: u64,
    /// When the last request ended, or it became ready.
    pub last_request: Moment,
    /// Whether the registry in force would start it differently.
    pub outdated: bool,
}

impl ReadyRun {
    /// What it takes and its peak: on a card with memory of its own, what it holds there.
    fn taken(&self, platform: Platform) -> (Bytes, Option<Bytes>) {
        match (platform, self.footprint.gpu) {
            (Platform::Cuda, Some(gpu)) => (gpu, None),
            _ => (self.footprint.bytes, self.footprint.peak),
        }
    }
}

/// As the policy for all models sees it.
pub(super) fn running(demand: &Demand, run: &ReadyRun, platform: Platform) -> Running {
    let model = &demand.model;
    Running {
        name: model.name.clone(),
        start: model.start,
        footprint: run.taken(platform).0,
        yields: model.memory.yield_to_pressure,
    }
}

/// What a decision about all models takes, in order. Every one is in the history.
pub(super) fn relieve<'a>(action: Action, models: impl Iterator<Item = &'a Name>) -> Vec<Step> {
    match action {
        Action::TrimAll { why } => {
            let text = format!("{why}: cached memory of all models is given back");
            let note = Step::Note(Note::new("trim_all", text));
            [note].into_iter().chain(models.cloned().map(Step::GiveBack)).collect()
        }
        Action::Stop { model, why } => {
            let model = Name::from(model.as_str());
            let note = Step::Note(Note::of(&model, "stopped_for_memory", why));
            let why = StopReason::Pressure;
            vec![note, Step::Event(Event::Stop { model, waiter: None, why, now: false, drain: None })]
        }
        Action::Return { model } => vec![Step::Event(Event::Return(Name::from(model.as_str())))],
        Action::Prioritise(priority) => vec![Step::Prioritise(priority)],
        Action::Changed { what } => vec![Step::Note(Note::new("memory", what))],
    }
}

/// One model: idle trims, its ceiling, what it shows to be learned.
pub(super) fn keep_in_bounds(
    demand: &mut Demand,
    learned: &mut Learned,
    now: Moment,
    run: &ReadyRun,
    platform: Platform,
) -> Vec<Step> {
    let (footprint, peak) = run.taken(platform);
    let memory = &demand.model.memory;
    let limits = Limits {
        ceiling: demand.estimate().map_or(Bytes(u64::MAX), |estimate| estimate.reserve()),
        trim_after: memory.trim_after,
        forget_after: memory.forget_after,
    };
    let backend = Now { footprint, in_flight: run.in_flight, last_request: run.last_request };
    let action = demand.upkeep(run.generation).step(now, backend, limits);
    let idle = run.in_flight == 0;
    let shown = Footprints {
        idle: (idle && run.requests == 0).then_some(footprint),
        resident: (idle && run.requests > 0).then_some(footprint),
        peak,
    };
    // A run that was started under other settings shows what those take.
    if let Some(plan) = demand.plan().filter(|_| !run.outdated) {
        learned.shown(&plan.key, shown);
    }
    let ceiling = limits.ceiling;
    match action {
        None => Vec::new(),
        Some(upkeep::Action::Trim) => vec![Step::EmptyCache(run.name.clone())],
        Some(upkeep::Action::Forget(Why::Idle)) => vec![Step::GiveBack(run.name.clone())],
        Some(upkeep::Action::Forget(Why::Ceiling)) => {
            let text = format!("its footprint of {footprint} is over its ceiling of {ceiling}: trimmed");
            let note = Note::of(&run.name, "over_ceiling", text);
            vec![Step::Note(note), Step::GiveBack(run.name.clone())]
        }
        Some(upkeep::Action::Recycle) => vec![Step::Event(recycle(run, footprint, ceiling))],
    }
}

/// Trimming did not help, and nothing is in flight: a new run begins small.
fn recycle(run: &ReadyRun, footprint: Bytes, ceiling: Bytes) -> Event {
    let text = format!("its footprint of {footprint} stays over its ceiling of {ceiling}: recycled");
    let failure = Failure::new(FailureKind::OverCeiling, text)
        .hint("a smaller memory.context or kv_limit, or a larger memory.ceiling");
    let signed = Signed::Unhealthy(failure);
    Event::Of { model: run.name.clone(), generation: run.generation, signed }
}
