//! Applies a changed registry, model by model, and touches only what changed.

use std::sync::Arc;

use super::Driver;
use crate::api::{ApiError, Change, ChangeKind};
use crate::lifecycle::{Event, Name};
use crate::registry::Registry;
use crate::supervisor::answers::{changes, listeners, not_taken_in, tables, word};
use crate::supervisor::read_registry;
use crate::supervisor::records::{Note, written};
use crate::supervisor::runs::policy;

impl Driver {
    /// Applies `next`, or with `dry_run` only returns what it would change.
    pub(super) fn reload(&mut self, next: Registry, dry_run: bool) -> Vec<Change> {
        let models = changes(&self.registry, &next);
        let beside = [listeners(&self.registry, &next), tables(&self.registry, &next)].concat();
        if !dry_run {
            self.take_in(next);
            self.note_changes(&models, &beside);
            // A program newly listed in `memory.yield` may already be running.
            self.look_at_programs();
        }
        [models, beside].concat()
    }

    fn take_in(&mut self, next: Registry) {
        self.registry_problem = None;
        self.registry_seen = written(&next.file);
        self.registry = Arc::new(next);
        let registry = self.registry.clone();
        self.answers.follow(&registry);
        let steps = self.capacity.follow_rules(&registry, &self.fleet);
        self.take_steps(steps);
        self.follow_models();
        let policies = registry.models.iter();
        let policies = policies.map(|model| (Name::from(model.name.as_str()), policy(&*self.host, model)));
        self.handle(Event::Reload(policies.collect()));
        self.keep_hours();
        for model in &registry.models {
            self.look_for_differences(&Name::from(model.name.as_str()));
        }
    }

    /// Brings gates and router in line with the registry.
    pub(super) fn follow_models(&mut self) {
        let platform = self.capacity.platform();
        for model in &self.registry.models {
            let (name, model) = (Name::from(model.name.as_str()), Arc::new(model.clone()));
            self.capacity.follow_model(&self.registry, &model, platform);
            self.runs.follow_model(&self.registry, &model, self.capacity.demand(&name));
        }
        let note = self.runs.follow_router(&self.registry);
        self.note(note);
    }

    fn note_changes(&mut self, models: &[Change], beside: &[Change]) {
        for change in models.iter().filter(|change| change.change != ChangeKind::Unchanged) {
            let detail = change.detail.as_deref().unwrap_or_default();
            let text = format!("the registry was reloaded: {} {detail}", word(change.change));
            self.note([Note::of(&Name::from(change.model.as_str()), "reloaded", text.trim_end())]);
        }
        for change in beside {
            let detail = change.detail.as_deref().unwrap_or_default();
            let text =
                format!("the registry was reloaded: {} {}: {detail}", change.model, word(change.change));
            self.note([Note::new("reloaded", text)]);
        }
    }

    /// Checks whether the file on disk is still the registry in effect; costs one `stat` unless it has changed.
    pub(super) fn look_at_registry(&mut self) {
        let seen = written(&self.registry.file);
        if seen == self.registry_seen {
            return;
        }
        self.registry_seen = seen;
        self.registry_problem = match read_registry(&self.registry.file) {
            Ok(next) if *next == *self.registry => None,
            Ok(_) => Some("the file was changed; mlxctl reload applies it".to_owned()),
            Err(problem) => Some(problem),
        };
    }

    /// Keeps the registry in effect, because the file on disk is invalid; `status` shows why.
    pub(super) fn keep_registry(&mut self, problem: String) -> ApiError {
        let text = "the registry on disk has problems: the previous version stays in effect";
        self.note([Note::new("reload_refused", text)]);
        let error = not_taken_in(&problem);
        self.registry_problem = Some(problem);
        error
    }
}
