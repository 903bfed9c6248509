//! A changed registry: told apart by model, and only what changed is touched.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::admit;
use super::driver::Driver;
use super::slot::gate_config;
use crate::api::{ApiError, Change, ChangeKind, ErrorCode};
use crate::lifecycle::{Event, Name, Policy};
use crate::registry::{Model, Registry};

impl Driver {
    /// Takes `next` in, or only says what it would change.
    pub fn reload(&mut self, next: Registry, dry_run: bool) -> Vec<Change> {
        let models = changes(&self.registry, &next);
        let all = [models.clone(), listeners(&self.registry, &next)].concat();
        if dry_run {
            return all;
        }
        self.registry_problem = None;
        self.registry_seen = written(&next.file);
        self.policy.set(next.pressure.clone());
        self.registry = Arc::new(next);
        self.take_power_rules(self.registry.power);
        let registry = self.registry.clone();
        let platform = self.platform();
        self.metrics_listener.listen(&registry);
        for model in &registry.models {
            let name = Name::from(model.name.as_str());
            match self.slots.get_mut(&name) {
                Some(slot) => {
                    slot.model = Arc::new(model.clone());
                    slot.files.look(model);
                    slot.plan = admit::plan(&registry, model, &slot.files, platform, &self.learned).ok();
                    slot.gate.reconfigure(gate_config(&registry, model, &slot.files, slot.plan.as_ref()));
                }
                None => self.open_slot(Arc::new(model.clone())),
            }
        }
        self.follow_router();
        let policies =
            registry.models.iter().map(|model| (Name::from(model.name.as_str()), Policy::from(model)));
        self.handle(Event::Reload(policies.collect()));
        for model in &registry.models {
            self.look_for_differences(&Name::from(model.name.as_str()));
        }
        for change in models.iter().filter(|change| change.change != ChangeKind::Unchanged) {
            let detail = change.detail.as_deref().unwrap_or_default();
            let text = format!("the registry was reloaded: {:?} {detail}", change.change).to_lowercase();
            self.note(Some(&change.model), "reloaded", text.trim_end());
        }
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

/// What tells two registries apart, a line a model.
fn changes(old: &Registry, new: &Registry) -> Vec<Change> {
    let find =
        |registry: &Registry, name: &str| registry.models.iter().find(|model| model.name == name).cloned();
    let mut changes: Vec<_> = new
        .models
        .iter()
        .map(|model| match find(old, &model.name) {
            None => change(&model.name, ChangeKind::Added, None),
            Some(before) if before == *model && old.network == new.network => {
                change(&model.name, ChangeKind::Unchanged, None)
            }
            Some(before) => change(&model.name, ChangeKind::Changed, Some(differences(&before, model))),
        })
        .collect();
    let removed = old.models.iter().filter(|model| find(new, &model.name).is_none());
    changes.extend(
        removed
            .map(|model| change(&model.name, ChangeKind::Removed, Some("it is drained and stopped".into()))),
    );
    changes
}

/// The listeners that are no model's, as far as they change.
fn listeners(old: &Registry, new: &Registry) -> Vec<Change> {
    let router = |registry: &Registry| Some(SocketAddr::new(registry.network.host, registry.router?));
    let of_router = listener("[router]", router(old), router(new));
    of_router.into_iter().chain(listener("[metrics]", old.metrics.address, new.metrics.address)).collect()
}

/// What becomes of a listener that is no model's; nothing where it stays as it is.
fn listener(table: &str, old: Option<SocketAddr>, new: Option<SocketAddr>) -> Option<Change> {
    match (old, new) {
        (None, Some(new)) => Some(change(table, ChangeKind::Added, Some(new.to_string()))),
        (Some(old), None) => Some(change(table, ChangeKind::Removed, Some(old.to_string()))),
        (Some(old), Some(new)) if old != new => {
            Some(change(table, ChangeKind::Changed, Some(format!("{old}, now {new}"))))
        }
        _ => None,
    }
}

fn change(model: &str, change: ChangeKind, detail: Option<String>) -> Change {
    Change { model: model.to_owned(), change, detail }
}

/// The names of the settings that differ, and what becomes of a live run.
fn differences(old: &Model, new: &Model) -> String {
    let settings = [
        ("repo", old.source != new.source),
        ("port", old.port != new.port),
        ("start", old.start != new.start),
        ("size", old.size != new.size),
        ("aliases", old.aliases != new.aliases),
        ("server", old.server != new.server),
        ("memory", old.memory != new.memory),
        ("health", old.health != new.health),
        ("restart", old.restart != new.restart),
        ("stop", old.stop != new.stop),
        ("limits", old.limits != new.limits),
    ];
    let names: Vec<_> = settings.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    let needs_restart = old.source != new.source || old.server != new.server || old.memory != new.memory;
    let named = if names.is_empty() { "network".to_owned() } else { names.join(", ") };
    if needs_restart { format!("{named}; a live run goes on as it is until it is restarted") } else { named }
}
