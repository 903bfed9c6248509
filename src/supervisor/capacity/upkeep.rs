//! Upkeep of memory while models run: pressure, programs that the models yield to, ceilings, idle trims, and learning
//! of footprints. The decisions are made in [`crate::memory`].

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

/// The current state of a ready run.
pub(crate) struct ReadyRun {
    pub name: Name,
    pub generation: Generation,
    /// Of all its processes on this machine.
    pub footprint: Footprint,
    pub in_flight: u64,
    /// Number of requests since the supervisor came up.
    pub requests: u64,
    /// When the last request ended; without one, when it became ready.
    pub last_request: Moment,
    /// Whether the registry would start it differently now.
    pub outdated: bool,
}

impl ReadyRun {
    /// Its footprint and the peak of it; on a card with memory of its own, what it holds there.
    fn taken(&self, platform: Platform) -> (Bytes, Option<Bytes>) {
        match (platform, self.footprint.gpu) {
            (Platform::Cuda, Some(gpu)) => (gpu, None),
            _ => (self.footprint.bytes, self.footprint.peak),
        }
    }
}

/// A ready run as the pressure policy sees it.
pub(super) fn running(demand: &Demand, run: &ReadyRun, platform: Platform) -> Running {
    let model = &demand.model;
    Running {
        name: model.name.clone(),
        start: model.start,
        footprint: run.taken(platform).0,
        yields: model.memory.yield_to_pressure,
    }
}

/// The steps for an action of the pressure policy.
pub(super) fn relieve<'a>(action: Action, models: impl Iterator<Item = &'a Name>) -> Vec<Step> {
    match action {
        Action::TrimAll { why } => {
            let text = format!("{why}: releasing the cached memory of all models");
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

/// Upkeep of one run: idle trims, its ceiling, learning of its footprint.
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
    // The footprint of a run with older settings is not that of the current plan.
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

/// Ends a run that trimming did not help and that has nothing in flight, so that a new run starts small.
fn recycle(run: &ReadyRun, footprint: Bytes, ceiling: Bytes) -> Event {
    let text = format!("its footprint of {footprint} stays over its ceiling of {ceiling}: recycled");
    let failure = Failure::new(FailureKind::OverCeiling, text)
        .hint("a smaller memory.context or kv_limit, or a larger memory.ceiling");
    let signed = Signed::Unhealthy(failure);
    Event::Of { model: run.name.clone(), generation: run.generation, signed }
}
