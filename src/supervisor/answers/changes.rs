//! The differences between two registries, for people. Pure, except that it checks whether a model's new files are there.

use std::net::SocketAddr;

use crate::api::{Change, ChangeKind};
use crate::registry::{Model, Registry, Reserve};
use crate::supervisor::capacity::present;

/// The changes between two registries, one line per model.
pub(crate) fn changes(old: &Registry, new: &Registry) -> Vec<Change> {
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

/// The changes of the listeners that are not a model's.
pub(crate) fn listeners(old: &Registry, new: &Registry) -> Vec<Change> {
    let router = |registry: &Registry| Some(SocketAddr::new(registry.network.host, registry.router?));
    let of_router = listener("[router]", router(old), router(new));
    let of_metrics = listener("[metrics]", old.metrics.address, new.metrics.address);
    let of_page = listener("[page]", old.page.address, new.page.address);
    of_router.into_iter().chain(of_metrics).chain(of_page).collect()
}

/// The change of one such listener; `None`: it stays as it is.
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

/// The names of the settings that differ, and the consequence for a live run.
fn differences(old: &Model, new: &Model) -> String {
    let settings = [
        ("repo", old.source != new.source),
        ("cluster", old.cluster != new.cluster),
        ("port", old.port != new.port),
        ("start", old.start != new.start),
        ("size", old.size != new.size),
        ("target", old.target != new.target),
        ("aliases", old.aliases != new.aliases || old.presets != new.presets),
        ("alternatives", old.alternatives != new.alternatives),
        ("server", old.server != new.server),
        ("memory", old.memory != new.memory),
        ("health", old.health != new.health),
        ("restart", old.restart != new.restart),
        ("stop", old.stop != new.stop),
        ("limits", old.limits != new.limits),
    ];
    let names = names(&settings);
    let named = if names.is_empty() { "network".to_owned() } else { names.join(", ") };
    let needs_restart = old.source != new.source
        || old.cluster != new.cluster
        || old.server != new.server
        || old.memory != new.memory;
    if !needs_restart {
        return named;
    }
    match present(new) {
        Ok(()) => format!("{named}; a live run keeps its settings until it is restarted"),
        Err(missing) => {
            let hint = missing.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{named}; {}{hint}; a live run continues and is not restarted until then", missing.text)
        }
    }
}

/// The changes of the other tables, one line per table, with what has to be done for them to take effect.
pub(crate) fn tables(old: &Registry, new: &Registry) -> Vec<Change> {
    let table = |name: &str, changed: Vec<String>, so: &str| {
        (!changed.is_empty()).then(|| {
            let detail = [changed.join(", "), so.to_owned()].join("; ");
            change(name, ChangeKind::Changed, Some(detail))
        })
    };
    let (network, python) = (
        network(old, new),
        names(&[
            ("interpreter", old.python.interpreter != new.python.interpreter),
            ("packages", old.python.packages != new.python.packages),
        ]),
    );
    let power = names(&[
        ("on_battery", old.power.on_battery != new.power.on_battery),
        ("low_power", old.power.low_power != new.power.low_power),
    ]);
    let notify = names(&[
        ("command", old.notify.command != new.notify.command),
        ("desktop", old.notify.desktop != new.notify.desktop),
        ("kinds", old.notify.kinds != new.notify.kinds),
    ]);
    [
        table(
            "[paths]",
            paths(old, new),
            "takes effect when the supervisor is restarted: mlxctl agent restart",
        ),
        table("[python]", python, "takes effect with mlxctl setup"),
        table("[network]", network, "in effect for new requests"),
        table("[memory]", memory(old, new), "in effect from now on; no live run is stopped for it"),
        table("[power]", power, "in effect"),
        table("[notify]", notify, "in effect"),
        table("[agent]", agent(old, new), "takes effect with mlxctl agent install"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn names(keys: &[(&str, bool)]) -> Vec<String> {
    keys.iter().filter(|(_, differs)| *differs).map(|(name, _)| (*name).to_owned()).collect()
}

fn paths(old: &Registry, new: &Registry) -> Vec<String> {
    let (old, new) = (&old.paths, &new.paths);
    names(&[
        ("root", old.root != new.root),
        ("venv", old.venv != new.venv),
        ("logs", old.logs != new.logs),
        ("run", old.run != new.run),
        ("state", old.state != new.state),
    ])
}

fn network(old: &Registry, new: &Registry) -> Vec<String> {
    let (old, new) = (&old.network, &new.network);
    names(&[
        ("host", old.host != new.host),
        ("allow_from", old.allow_from != new.allow_from),
        ("allow_origins", old.allow_origins != new.allow_origins),
        ("allow_hosts", old.allow_hosts != new.allow_hosts),
        ("require_key", old.require_key != new.require_key),
    ])
}

/// Reserves one by one, with their sizes; the rest by its keys.
fn memory(old: &Registry, new: &Registry) -> Vec<String> {
    let find = |all: &[Reserve], name: &str| all.iter().find(|reserve| reserve.name == name).cloned();
    let reserve = |reserve: &Reserve| match find(&old.reserves, &reserve.name) {
        None => Some(format!("reserve {} {} added", reserve.name, reserve.size)),
        Some(before) if before.size != reserve.size => {
            Some(format!("reserve {} {}, was {}", reserve.name, reserve.size, before.size))
        }
        Some(before) if before != *reserve => Some(format!("reserve {}: while_running", reserve.name)),
        Some(_) => None,
    };
    let mut changed: Vec<String> = new.reserves.iter().filter_map(reserve).collect();
    let gone = old.reserves.iter().filter(|reserve| find(&new.reserves, &reserve.name).is_none());
    changed.extend(gone.map(|reserve| format!("reserve {} {} removed", reserve.name, reserve.size)));
    let (old, new) = (&old.pressure, &new.pressure);
    changed.extend(names(&[
        ("yield", old.yield_to != new.yield_to),
        ("yield_actions", old.yield_actions != new.yield_actions),
        ("pace", old.pace != new.pace),
        ("yield_hold", old.yield_hold != new.yield_hold),
        ("critical_hold", old.critical_hold != new.critical_hold),
        ("calm_hold", old.calm_hold != new.calm_hold),
    ]));
    changed
}

fn agent(old: &Registry, new: &Registry) -> Vec<String> {
    let (old, new) = (&old.agent, &new.agent);
    names(&[
        ("label", old.label != new.label),
        ("process_type", old.process_type != new.process_type),
        ("nice", old.nice != new.nice),
        ("low_priority_io", old.low_priority_io != new.low_priority_io),
        ("path", old.path != new.path),
        ("working_directory", old.working_directory != new.working_directory),
        ("log", old.log != new.log),
        ("exit_timeout", old.exit_timeout != new.exit_timeout),
        ("throttle_interval", old.throttle_interval != new.throttle_interval),
        ("open_files", old.open_files != new.open_files),
        ("environment", old.environment != new.environment),
    ])
}

pub(crate) fn word(change: ChangeKind) -> &'static str {
    match change {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Changed => "changed",
        ChangeKind::Unchanged => "unchanged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(more: &str, model: &str) -> Registry {
        let text = format!(
            "[paths]\nroot = \"/r\"\n[network]\nhost = \"127.0.0.1\"\n{more}\n\
             [[model]]\nname = \"m\"\nrepo = \"no-such-org/one\"\nport = 1\nsize = \"1GB\"\n{model}\n"
        );
        Registry::parse(std::path::Path::new("/m.toml"), &text).unwrap()
    }

    #[test]
    fn every_changed_table_is_named_with_its_changed_keys() {
        let old = registry("[memory]\nreserve = [{ name = \"macOS\", size = \"10GB\" }]", "");
        let new = registry(
            "[memory]\nreserve = [{ name = \"macOS\", size = \"12GB\" }, { name = \"Civ V\", size = \"8GB\" }]\n\
             yield = [\"Civ5XP\"]\n[power]\non_battery = \"refuse_manual\"\n[agent]\nnice = 5\n[python]\npackages = [\"mlx-lm==0.32.2\", \"tqdm\"]",
            "",
        );
        let told: Vec<(String, String)> =
            tables(&old, &new).into_iter().map(|change| (change.model, change.detail.unwrap())).collect();
        let of = |table: &str| &told.iter().find(|(name, _)| name == table).unwrap().1;
        let memory = of("[memory]");
        assert!(
            memory.starts_with("reserve macOS 12.0 GB, was 10.0 GB, reserve Civ V 8.00 GB added, yield;"),
            "{memory}"
        );
        assert!(of("[power]").starts_with("on_battery;"));
        assert!(of("[agent]").contains("nice; takes effect with mlxctl agent install"));
        assert!(of("[python]").starts_with("packages;"));
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(tables(&new, &new), []);
    }

    /// No setting changes without being reported.
    #[test]
    fn two_registries_that_differ_have_a_change() {
        let base = registry("", "");
        for (more, model) in [
            ("[memory]\ncalm_hold = \"1m\"", ""),
            ("[power]\nlow_power = \"stop_manual\"", ""),
            ("[agent]\nprocess_type = \"Interactive\"", ""),
            ("[notify]\ndesktop = true", ""),
            ("[router]\nport = 9", ""),
            ("[metrics]\naddress = \"127.0.0.1:9\"", ""),
            ("[page]\naddress = \"127.0.0.1:9\"", ""),
            ("", "alternatives = [\"no-such-org/two\"]"),
            ("", "target = \"25 tok/s\""),
            ("", "limits = { queue = 3 }"),
        ] {
            let other = registry(more, model);
            assert_ne!(other, base);
            let told = [changes(&base, &other), listeners(&base, &other), tables(&base, &other)].concat();
            let named = told.iter().filter(|change| change.change != ChangeKind::Unchanged);
            assert!(named.clone().count() > 0, "{more}{model}");
            assert!(named.into_iter().all(|change| change.detail.as_deref() != Some("network")), "{told:?}");
        }
    }

    #[test]
    fn a_repo_without_files_is_reported_with_the_command_that_downloads_them() {
        let (old, mut new) = (registry("", ""), registry("", ""));
        new.models[0].source = crate::registry::Source::Hub("no-such-org/two".into());
        let told = changes(&old, &new).remove(0).detail.unwrap();
        assert!(told.contains("no-such-org/two is not downloaded (mlxctl pull m)"), "{told}");
    }
}
