//! A changed registry: told apart by model, and only what changed is touched.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::admit;
use super::changes::{changes, listeners, tables};
use super::driver::Driver;
use super::hours;
use super::slot::gate_config;
use crate::api::{ApiError, Change, ChangeKind, ErrorCode};
use crate::lifecycle::{Event, Name};
use crate::python::profile::Profiles;
use crate::registry::Registry;

impl Driver {
    /// Takes `next` in, or only says what it would change.
    pub fn reload(&mut self, next: Registry, dry_run: bool) -> Vec<Change> {
        let models = changes(&self.registry, &next);
        let beside = [listeners(&self.registry, &next), tables(&self.registry, &next)].concat();
        let all = [models.clone(), beside.clone()].concat();
        if dry_run {
            return all;
        }
        self.registry_problem = None;
        self.registry_seen = written(&next.file);
        self.policy.set(next.pressure.clone());
        self.registry = Arc::new(next);
        self.notifier.follow(&self.registry);
        self.take_power_rules(self.registry.power);
        let registry = self.registry.clone();
        let platform = self.platform();
        self.metrics_listener.listen(&registry);
        for model in &registry.models {
            let name = Name::from(model.name.as_str());
            match self.slots.get_mut(&name) {
                Some(slot) => {
                    slot.model = Arc::new(model.clone());
                    slot.files.look(model, &Profiles::of(&registry));
                    slot.plan = admit::plan(&registry, model, &slot.files, platform, &self.learned).ok();
                    slot.gate.reconfigure(gate_config(&registry, model, &slot.files, slot.plan.as_ref()));
                }
                None => self.open_slot(Arc::new(model.clone())),
            }
        }
        self.follow_router();
        let policies = registry.models.iter();
        let policies =
            policies.map(|model| (Name::from(model.name.as_str()), hours::policy(&*self.host, model)));
        self.handle(Event::Reload(policies.collect()));
        self.keep_hours();
        for model in &registry.models {
            self.look_for_differences(&Name::from(model.name.as_str()));
        }
        for change in models.iter().filter(|change| change.change != ChangeKind::Unchanged) {
            let detail = change.detail.as_deref().unwrap_or_default();
            let text = format!("the registry was reloaded: {} {detail}", word(change.change));
            self.note(Some(&change.model), "reloaded", text.trim_end());
        }
        for change in &beside {
            let detail = change.detail.as_deref().unwrap_or_default();
            let text = format!("{} of the registry {}: {detail}", change.model, word(change.change));
            self.note(None, "reloaded", &text);
        }
        // A program that is new in `memory.yield` may run already.
        self.look_at_programs();
        all
    }

    /// Looks whether the file on disk is still the registry in force; one `stat`, unless it was written to.
    pub fn look_at_registry(&mut self) {
        let seen = written(&self.registry.file);
        if seen == self.registry_seen {
            return;
        }
        self.registry_seen = seen;
        self.registry_problem = match super::read_registry(&self.registry.file) {
            Ok(next) if *next == *self.registry => None,
            Ok(_) => Some("the file on disk was changed; mlxctl reload takes it in".to_owned()),
            Err(problem) => Some(problem),
        };
    }

    /// The file is no registry: the old one stays in force, and `status` says so.
    pub fn keep_registry(&mut self, problem: String) -> ApiError {
        self.note(None, "reload_refused", "the registry on disk has problems: the old one stays in force");
        self.registry_problem = Some(problem.clone());
        ApiError {
            code: ErrorCode::BadRequest,
            message: format!("the registry was not taken in, the old one stays in force\n{problem}"),
            hint: Some("mlxctl check".into()),
        }
    }
}

/// When a file was last written to; `None`: it is not there.
pub(super) fn written(file: &Path) -> Option<SystemTime> {
    fs_err::metadata(file).and_then(|found| found.modified()).ok()
}

fn word(change: ChangeKind) -> &'static str {
    match change {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Changed => "changed",
        ChangeKind::Unchanged => "unchanged",
    }
}
