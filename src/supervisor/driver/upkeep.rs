//! What is done now and then: looks at memory, at files, at models that nobody uses.

use std::time::Duration;

use super::Driver;
use crate::clock::beat;
use crate::lifecycle::{Decision, Event, Name, State, StopReason};
use crate::supervisor::capacity::Step;
use crate::supervisor::records::{Note, rotate_own};

/// Between two looks at files. A log may grow by what is written meanwhile.
const BETWEEN: Duration = Duration::from_secs(10);

impl Driver {
    /// Looks at files, if it is time.
    pub(super) fn keep_house(&mut self) {
        let now = self.host.now();
        if now < self.house_due {
            return;
        }
        // A model that sleeps or wakes up does so on time.
        let hours = self.keep_hours();
        self.house_due = now.after(hours.into_iter().fold(beat::wait(BETWEEN), Duration::min));
        self.records.try_again();
        self.capacity.try_again();
        self.stop_idle();
        self.save(true);
        let notes = self.answers.look_for_trouble(&self.registry, &self.records, &self.capacity);
        self.note(notes);
        self.runs.rotate_logs(&self.registry);
        for event in self.capacity.files_came(&self.fleet) {
            self.handle(event);
        }
        self.give_back();
        let own = &self.registry.agent.log;
        if let Err(error) = rotate_own(own) {
            tracing::warn!(%error, log = %own.display(), "my own log is not put aside");
        }
    }

    /// Gives the supervisor's own memory back, if everything has come to rest. Never the reason to wake up.
    fn give_back(&mut self) {
        self.settle();
        let settled = self.fleet.models().iter().all(|model| {
            matches!(
                model.state,
                State::Stopped { .. } | State::Ready { .. } | State::Backoff { .. } | State::Failed { .. }
            )
        });
        let now = self.host.now();
        if settled && self.runs.quiet() && self.handover.is_none() && self.quiet.comes(now) {
            self.host.give_back();
        }
    }

    /// Stops what nobody has used for long, or whose time is over, and announces it before. With the regular look at files,
    /// so that no timer is spent on it.
    fn stop_idle(&mut self) {
        if self.handover.is_some() {
            return;
        }
        for (model, decision) in self.runs.idle_steps(self.host.now(), &self.fleet) {
            match decision {
                Decision::Keep => {}
                Decision::Warn(left, why) => self.note([stops_soon(&model, left, &why)]),
                Decision::Stop(why) => {
                    self.handle(Event::Stop { model, waiter: None, why, now: false, drain: None });
                }
            }
        }
    }

    /// Looks before something is decided that a program to yield to has a say in. Without ready models nobody else does.
    pub(super) fn look_at_programs(&mut self) {
        if !self.registry.pressure.yield_to.is_empty() {
            self.look();
        }
    }

    /// Looks at memory and at programs, decides, acts.
    pub(super) fn look(&mut self) {
        let now = self.host.now();
        let runs = self.runs.ready(now, &self.fleet);
        let yield_to = &self.registry.pressure.yield_to;
        let programs = if yield_to.is_empty() { Vec::new() } else { self.host.running(yield_to) };
        self.answers.contradicted_by(yield_to, &programs);
        let steps = self.capacity.look(now, &runs, &programs);
        self.take_steps(steps);
    }

    /// Does what follows from memory and power.
    pub(super) fn take_steps(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Note(note) => self.note([note]),
                Step::Event(event) => self.handle(event),
                Step::Publish => self.publish(),
                Step::Prioritise(priority) => {
                    let notes = self.runs.prioritise(priority, &self.fleet);
                    self.note(notes);
                }
                Step::EmptyCache(model) => self.with_slot(&model, |slot| slot.empty_cache()),
                Step::GiveBack(model) => self.with_slot(&model, |slot| slot.give_back()),
            }
        }
    }
}

fn stops_soon(model: &Name, left: Duration, why: &StopReason) -> Note {
    let left = humantime::format_duration(Duration::from_secs(left.as_secs().max(1)));
    let text = match why {
        StopReason::Idle(_) => format!("stops in {left} unless a request comes"),
        _ => format!("stops in {left}: {}", why.text()),
    };
    Note::of(model, "stops_soon", text)
}
