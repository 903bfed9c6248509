//! What happens when memory gets short, and while a program runs that the models yield to. Pure: the supervisor steps
//! it with the time and carries out the actions.
//!
//! A rising level takes effect at once, a falling one only after it has lasted, so a level that flickers makes one
//! episode, not many.

use std::collections::BTreeSet;

use crate::clock::Moment;
use crate::host::{Pressure, Priority};
use crate::registry::Start;
use crate::registry::{PressureSettings, YieldAction};
use crate::units::{Bytes, Percent};

/// What the policy needs to know of a running model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub name: String,
    pub start: Start,
    pub footprint: Bytes,
    /// Whether the registry lets pressure stop it even though it is always-on.
    pub yields: bool,
}

/// What to do, once each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Release the cached memory of all models.
    TrimAll {
        why: &'static str,
    },
    Stop {
        model: String,
        why: String,
    },
    /// Restart this always-on model, which was stopped because of pressure.
    Return {
        model: String,
    },
    /// Set the priority of all backends.
    Prioritise(Priority),
    /// [`Policy::refuses`] has changed; `what` is the text of the event.
    Changed {
        what: String,
    },
}

/// The state of the current episode of pressure, and of yielding.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    settings: PressureSettings,
    /// The level in effect: the highest since pressure was last calm.
    level: Pressure,
    /// Since when pressure has been critical, or when a model was last stopped for it.
    critical_since: Option<Moment>,
    /// Since when pressure has been normal within an episode.
    calm_since: Option<Moment>,
    /// Models stopped in this episode; they may still be shutting down.
    stopped: BTreeSet<String>,
    /// Always-on models to restart after the episode.
    owed: BTreeSet<String>,
    yielding: bool,
    /// The programs to yield to that were last seen running.
    programs: Vec<String>,
    /// While yielding: since when no program to yield to has been running.
    alone_since: Option<Moment>,
}

impl Policy {
    pub(crate) fn new(settings: PressureSettings) -> Self {
        Self {
            settings,
            level: Pressure::Normal,
            critical_since: None,
            calm_since: None,
            stopped: BTreeSet::new(),
            owed: BTreeSet::new(),
            yielding: false,
            programs: Vec::new(),
            alone_since: None,
        }
    }

    /// Replaces the settings; an episode in progress continues.
    pub(crate) fn set(&mut self, settings: PressureSettings) {
        self.settings = settings;
    }

    /// Why a start is refused now; `None`: it is not. `running` are the programs of [`PressureSettings::yield_to`] that run
    /// at this moment, which may be more than the last step saw.
    pub(crate) fn refuses(&self, start: Start, running: &[String]) -> Option<String> {
        if self.level > Pressure::Normal {
            return Some("memory pressure is not normal yet".to_owned());
        }
        if start != Start::Manual || !self.settings.yield_actions.contains(&YieldAction::RefuseManual) {
            return None;
        }
        match (running, self.yielding_to()) {
            ([], []) => None,
            ([], last) => Some(format!("{} ran a moment ago, and the models yield to it", last.join(", "))),
            (running, _) => Some(yields(running)),
        }
    }

    /// The programs that the models yield to, as last seen; empty: the models do not yield.
    pub(crate) fn yielding_to(&self) -> &[String] {
        if self.yielding { &self.programs } else { &[] }
    }

    /// The share of time during which the models may compute; `None`: all of it.
    pub(crate) fn pace(&self) -> Option<Percent> {
        self.settings.pace.filter(|_| self.yielding)
    }

    /// Whether requests are queued until the programs have ended.
    pub(crate) fn holds(&self) -> bool {
        self.yielding && self.settings.yield_actions.contains(&YieldAction::Hold)
    }

    /// When to step again if nothing changes before; `None`: only when something changes.
    pub(crate) fn next(&self) -> Option<Moment> {
        [
            self.critical_since.map(|since| since.after(self.settings.critical_hold)),
            self.calm_since.map(|since| since.after(self.settings.calm_hold)),
            self.alone_since.map(|since| since.after(self.settings.yield_hold)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Advances the policy; `programs` are those of [`PressureSettings::yield_to`] that run.
    pub(crate) fn step(
        &mut self,
        now: Moment,
        pressure: Pressure,
        models: &[Running],
        programs: &[String],
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        self.rise(pressure, &mut actions);
        self.critical(now, pressure, models, &mut actions);
        self.calm(now, pressure, &mut actions);
        self.give_way(now, models, programs, &mut actions);
        actions
    }

    fn rise(&mut self, pressure: Pressure, actions: &mut Vec<Action>) {
        if pressure <= self.level {
            return;
        }
        if self.level == Pressure::Normal {
            actions.push(Action::Changed {
                what: "memory pressure is rising: models are not started until it is over".to_owned(),
            });
        }
        self.level = pressure;
        actions.push(Action::TrimAll {
            why: if pressure == Pressure::Critical { "critical memory pressure" } else { "memory pressure" },
        });
    }

    fn critical(&mut self, now: Moment, pressure: Pressure, models: &[Running], actions: &mut Vec<Action>) {
        if pressure != Pressure::Critical {
            self.critical_since = None;
            return;
        }
        let since = *self.critical_since.get_or_insert(now);
        if now.since(since) < self.settings.critical_hold {
            return;
        }
        let able = |model: &&Running| !self.stopped.contains(&model.name);
        let largest = |start| {
            let may =
                move |model: &&Running| model.start == start && (start == Start::Manual || model.yields);
            models.iter().filter(able).filter(may).max_by_key(|model| model.footprint)
        };
        // Before another model is stopped, this one gets the same time to show that it was enough.
        self.critical_since = Some(now);
        let Some(model) = largest(Start::Manual).or_else(|| largest(Start::Always)) else { return };
        if model.start == Start::Always {
            self.owed.insert(model.name.clone());
        }
        self.stopped.insert(model.name.clone());
        actions.push(Action::Stop {
            model: model.name.clone(),
            why: "memory pressure stayed critical".to_owned(),
        });
    }

    fn calm(&mut self, now: Moment, pressure: Pressure, actions: &mut Vec<Action>) {
        if pressure != Pressure::Normal || self.level == Pressure::Normal {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.since(since) < self.settings.calm_hold {
            return;
        }
        self.level = Pressure::Normal;
        self.calm_since = None;
        self.stopped.clear();
        actions.push(Action::Changed { what: "memory pressure is over".to_owned() });
        actions.extend(std::mem::take(&mut self.owed).into_iter().map(|model| Action::Return { model }));
    }

    fn give_way(&mut self, now: Moment, models: &[Running], programs: &[String], actions: &mut Vec<Action>) {
        let runs = !programs.is_empty();
        if runs {
            self.programs = programs.to_vec();
        }
        let does = |action| self.settings.yield_actions.contains(&action);
        if runs && !self.yielding {
            actions.push(Action::Changed { what: yields(programs) });
            if does(YieldAction::Trim) {
                actions.push(Action::TrimAll { why: "yielding to a program" });
            }
            if does(YieldAction::LowerPriority) {
                actions.push(Action::Prioritise(Priority::Background));
            }
            if does(YieldAction::StopManual) {
                let manual = models.iter().filter(|model| model.start == Start::Manual);
                let stop =
                    |model: &Running| Action::Stop { model: model.name.clone(), why: yields(programs) };
                let stops: Vec<Action> = manual.map(stop).filter(|stop| !actions.contains(stop)).collect();
                actions.extend(stops);
            }
            self.yielding = true;
        }
        if runs || !self.yielding {
            self.alone_since = None;
            return;
        }
        let since = *self.alone_since.get_or_insert(now);
        if now.since(since) < self.settings.yield_hold {
            return;
        }
        self.yielding = false;
        self.alone_since = None;
        let ended = std::mem::take(&mut self.programs).join(", ");
        actions.push(Action::Changed { what: format!("{ended} has ended: the models no longer yield") });
        // Whatever the settings say now, a priority that was lowered has to be restored.
        actions.push(Action::Prioritise(Priority::Normal));
    }
}

fn yields(programs: &[String]) -> String {
    let are = if programs.len() == 1 { ("is", "it") } else { ("are", "them") };
    format!("{} {} running, and the models yield to {}", programs.join(", "), are.0, are.1)
}

#[cfg(test)]
#[path = "pressure_tests.rs"]
mod tests;
