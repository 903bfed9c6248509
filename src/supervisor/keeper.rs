//! Keeps memory in bounds while the models run: pressure, programs that the models yield to, ceilings, idle trims;
//! and learns what models really take. Decisions are those of [`crate::memory`]; here they are fed and carried out.

use std::time::Duration;

use tokio::sync::oneshot;

use super::driver::Driver;
use crate::backend::link::Request;
use crate::clock::Moment;
use crate::clock::beat;
use crate::host::Priority;
use crate::lifecycle::{Event, Failure, FailureKind, Generation, Name, Signed, State, StopReason};
use crate::memory::Platform;
use crate::memory::learn::Learned as Footprints;
use crate::memory::pressure::{Action, Running};
use crate::memory::upkeep::{self, Limits, Now, Why};
use crate::units::Bytes;

/// One run, as it is now.
struct Seen {
    name: Name,
    generation: Generation,
    footprint: Bytes,
    peak: Option<Bytes>,
    since: Moment,
}

impl Driver {
    /// When to look again: with the health checks of ready models (a look costs some 0.1 ms). `None`: nothing runs,
    /// and nothing has to be undone.
    pub fn next_look(&self) -> Option<Moment> {
        let mut models = self.fleet.models().iter();
        let ready = models.any(|model| matches!(model.state, State::Ready { .. }));
        let undone = ready || !self.policy.yielding_to().is_empty();
        undone.then_some(self.look_due).into_iter().chain(self.policy.next()).min()
    }

    /// Looks before something is decided that a program to yield to has a say in. Without ready models nobody else does.
    pub fn look_at_programs(&mut self) {
        if !self.registry.pressure.yield_to.is_empty() {
            self.look();
        }
    }

    /// Looks, decides, acts.
    pub fn look(&mut self) {
        let now = self.host.now();
        // Of all models: one that becomes ready before the next look has its interval kept as well.
        let interval = self.slots.values().map(|slot| slot.model.health.interval).min();
        self.look_due = now.after(interval.map_or(Duration::ZERO, beat::wait));
        let reading = self.host.memory().unwrap_or_default();
        let seen = self.ready_runs(now, Platform::of(&reading));
        let running = seen.iter().filter_map(|seen| self.running(seen)).collect::<Vec<_>>();
        let yield_to = &self.registry.pressure.yield_to;
        let programs = if yield_to.is_empty() { Vec::new() } else { self.host.running(yield_to) };
        self.glance.contradicted_by(yield_to, &programs);
        for action in self.policy.step(now, reading.pressure, &running, &programs) {
            self.relieve(action);
        }
        self.give_way();
        for seen in seen {
            self.keep_in_bounds(now, &seen);
        }
    }

    /// What the OS charges every ready run: on a card with memory of its own, what it holds there.
    fn ready_runs(&self, now: Moment, platform: Platform) -> Vec<Seen> {
        let ready = self.fleet.models().iter().filter_map(|managed| match &managed.state {
            State::Ready { run, since } => Some((managed.name.clone(), run, *since)),
            _ => None,
        });
        ready
            .filter_map(|(name, run, since)| {
                let found = self.slots.get(&name)?.charged(self.host.footprint(run.identity).ok()?);
                let (footprint, peak) = match (platform, found.gpu) {
                    (Platform::Cuda, Some(gpu)) => (gpu, None),
                    _ => (found.bytes, found.peak),
                };
                Some(Seen { name, generation: run.generation, footprint, peak, since: since.min(now) })
            })
            .collect()
    }

    fn running(&self, seen: &Seen) -> Option<Running> {
        let model = &self.slots.get(&seen.name)?.model;
        Some(Running {
            name: model.name.clone(),
            start: model.start,
            footprint: seen.footprint,
            yields: model.memory.yield_to_pressure,
        })
    }

    /// Carries a decision about all models out. Every one is in the history.
    fn relieve(&mut self, action: Action) {
        match action {
            Action::TrimAll { why } => {
                self.note(None, "trim_all", &format!("{why}: cached memory of all models is given back"));
                let names: Vec<_> = self.slots.keys().cloned().collect();
                for name in names {
                    self.trim_quietly(&name);
                }
            }
            Action::Stop { model, why } => {
                self.note(Some(&model), "stopped_for_memory", &why);
                let model = Name::from(model.as_str());
                self.handle(Event::Stop {
                    model,
                    waiter: None,
                    why: StopReason::Pressure,
                    now: false,
                    drain: None,
                });
            }
            Action::Return { model } => self.handle(Event::Return(Name::from(model.as_str()))),
            Action::Prioritise(priority) => self.prioritise(priority),
            Action::Changed { what } => self.note(None, "memory", &what),
        }
    }

    /// Takes in what the policy says: after each look, and each change of the settings.
    fn give_way(&mut self) {
        let programs = self.policy.yielding_to().join(", ");
        let pace = self.policy.pace();
        let changed = self.giving_way.pace.send_if_modified(|now| std::mem::replace(now, pace) != pace);
        if changed {
            let text = match pace {
                Some(share) => format!("pacing for {programs}: the models work {share} of the time"),
                None => "no longer pacing: the models work all of the time".to_owned(),
            };
            self.note(None, "pace", &text);
        }
        let held_for = self.policy.holds().then_some(programs);
        let before = std::mem::replace(&mut self.giving_way.held_for, held_for.clone());
        if before == held_for {
            return;
        }
        match (&before, &held_for) {
            (None, Some(programs)) => {
                let text = format!("holding for {programs}: new requests wait in line");
                self.note(None, "hold", &text);
            }
            (Some(_), None) => self.note(None, "hold", "no longer holding: requests go to the models"),
            // Another program: the same wait goes on.
            _ => {}
        }
        self.publish();
    }

    fn prioritise(&mut self, priority: Priority) {
        self.priority = priority;
        let live: Vec<_> =
            self.fleet.models().iter().filter_map(|model| Some(model.state.run()?.identity)).collect();
        for identity in live {
            if let Err(error) = self.host.set_priority(identity, priority) {
                let text = format!("process {} keeps its priority: {error}", identity.pid);
                self.note(None, "priority_failed", &text);
            }
        }
    }

    /// One model: idle trims, its ceiling, what it shows to be learned.
    fn keep_in_bounds(&mut self, now: Moment, seen: &Seen) {
        let Some(slot) = self.slots.get_mut(&seen.name) else { return };
        let traffic = slot.gate.traffic();
        let (in_flight, _) = traffic.progress();
        let requests = traffic.status().requests;
        let last_request = match traffic.last_activity() {
            Some(at) => Moment(now.0.saturating_sub(at.elapsed())).max(seen.since),
            None => seen.since,
        };
        let Some(run) = slot.run.as_mut().filter(|run| run.generation == seen.generation) else { return };
        let granted =
            slot.plan.as_ref().and_then(|plan| plan.estimate.as_ref()).map(|estimate| estimate.reserve());
        let memory = &slot.model.memory;
        let limits = Limits {
            ceiling: granted.unwrap_or(Bytes(u64::MAX)),
            trim_after: memory.trim_after,
            forget_after: memory.forget_after,
        };
        let backend = Now { footprint: seen.footprint, in_flight: in_flight.into(), last_request };
        let action = run.upkeep.step(now, backend, limits);
        let idle = in_flight == 0;
        let shown = Footprints {
            idle: (idle && requests == 0).then_some(seen.footprint),
            resident: (idle && requests > 0).then_some(seen.footprint),
            peak: seen.peak,
        };
        // A run that was started under other settings shows what those take.
        if let Some(plan) = slot.plan.as_ref().filter(|_| run.outdated.is_none()) {
            self.learned.shown(&plan.key, shown);
        }
        match action {
            None => {}
            Some(upkeep::Action::Trim) => self.ask_quietly(&seen.name, Request::Trim),
            Some(upkeep::Action::Forget(Why::Idle)) => self.trim_quietly(&seen.name),
            Some(upkeep::Action::Forget(Why::Ceiling)) => {
                let text = format!(
                    "its footprint of {} is over its ceiling of {}: trimmed",
                    seen.footprint, limits.ceiling
                );
                self.note(Some(&seen.name), "over_ceiling", &text);
                self.trim_quietly(&seen.name);
            }
            Some(upkeep::Action::Recycle) => self.recycle(seen, limits.ceiling),
        }
    }

    /// Trimming did not help, and nothing is in flight: a new run begins small.
    fn recycle(&mut self, seen: &Seen, ceiling: Bytes) {
        let text =
            format!("its footprint of {} stays over its ceiling of {ceiling}: recycled", seen.footprint);
        let failure = Failure::new(FailureKind::OverCeiling, text)
            .hint("a smaller memory.context or kv_limit, or a larger memory.ceiling");
        let signed = Signed::Unhealthy(failure);
        self.handle(Event::Of { model: seen.name.clone(), generation: seen.generation, signed });
    }

    /// How to trim this model now: kept prompts are given up as well where no request would have to wait for that.
    pub(super) fn trim_of(&self, name: &Name) -> Request {
        let idle = self.slots.get(name).is_some_and(|slot| slot.gate.traffic().progress().0 == 0);
        if idle { Request::Release } else { Request::Trim }
    }

    /// Asks the launcher to give cached memory back; nobody waits for its answer.
    fn trim_quietly(&self, name: &Name) {
        self.ask_quietly(name, self.trim_of(name));
    }

    fn ask_quietly(&self, name: &Name, request: Request) {
        if let Some(run) = self.slots.get(name).and_then(|slot| slot.run.as_ref()) {
            let (reply, _) = oneshot::channel();
            // A full queue means that it is asked already.
            let _ = run.questions.try_send((request, reply));
        }
    }
}
