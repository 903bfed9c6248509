//! `[[model]]`: each entry, and what several may not share.

use std::collections::HashMap;

use super::source::source;
use super::{Scope, cluster, environment, options, plain_word, server, values};
use crate::clock::hours::Hours;
use crate::registry::keys::{RawEntry, RawPreset};
use crate::registry::notes::At;
use crate::registry::problem::quote;
use crate::registry::raw::{RawModel, RawOptions, RawRegistry};
use crate::registry::reader::NameOr;
use crate::registry::{Model, Preset, Sampling, Source, Start, Stop};
use crate::units::Bytes;

/// All entries in the file's order, valid or not.
pub(super) fn models(scope: &Scope<'_>, raw: &RawRegistry) -> Vec<Model> {
    if raw.models.is_empty() {
        // A `model` that is not a list of tables was noted by the reader.
        if !raw.has_models {
            let hint = "add one: [[model]] with name, repo and port; docs/registry.md lists every key";
            scope.notes.add(None, "there is no model", hint);
        }
        return Vec::new();
    }
    unique_names(scope, &raw.models);
    unique_ports(scope, &raw.models);
    raw.models.iter().map(|model| resolve(scope, raw, model)).collect()
}

fn resolve(scope: &Scope<'_>, file: &RawRegistry, raw: &RawModel) -> Model {
    let entry = &raw.entry;
    for example in ["name = \"32b\"", "repo = \"mlx-community/Qwen3-32B-4bit\"", "port = 8800"] {
        let key = example.split(' ').next().unwrap_or_default();
        if entry.at.has(key) {
            continue;
        }
        let name = entry.name.as_ref();
        let who = name.map_or_else(|| "a model".to_owned(), |name| format!("`{}`", quote(&name.value)));
        let message = format!("{who} needs `{key}`");
        scope.notes.add(Some(entry.at.span()), message, format!("for example {example}"));
    }
    if let Some(name) = &entry.name {
        check_name(scope, name);
    }
    let options = raw.options.over(&file.defaults);
    let (start, size) = (entry.start(), entry.size.as_ref().map(|size| size.value));
    let memory = options.memory.valid();
    check_ceiling(scope, entry, &options, size);
    Model {
        name: entry.name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        source: entry.repo.as_ref().map_or(Source::Tiny, |repo| source(scope, repo)),
        aliases: aliases(scope, entry),
        presets: presets(scope, entry),
        alternatives: alternatives(scope, entry),
        port: entry.port.as_ref().map_or(0, |port| port.value),
        start,
        hours: hours(scope, entry, start),
        size,
        target: entry.target.as_ref().and_then(|target| rate(scope, target)),
        cluster: raw.cluster.as_ref().map(|cluster| cluster::cluster(scope, cluster, &options.server)),
        environment: environment::model(scope, &raw.options.environment, &file.defaults.environment),
        server: server::server(scope, &options.server),
        health: options::health(scope, &options.health),
        restart: options::restart(scope, &options.restart, start),
        stop: stop(scope, raw, &options, start),
        limits: options::limits(scope, &options.limits, &memory, raw.cluster.is_some()),
        memory,
    }
}

/// The hours; only an always-on model has them.
fn hours(scope: &Scope<'_>, entry: &RawEntry, start: Start) -> Option<Hours> {
    let written = entry.hours.as_ref()?;
    if start == Start::Manual {
        let hint = "leave it out, or make the model `start = \"always\"`; a manual model stops by itself with \
                    stop = { idle = \"2h\" }";
        scope.notes.wrong(written, "`hours` is for always-on models, and this one is manual", hint);
        return None;
    }
    Some(written.value.clone())
}

/// Only a manual model stops when idle: for others the shared value is ignored, and a value of their own is an error.
fn stop(scope: &Scope<'_>, raw: &RawModel, options: &RawOptions, start: Start) -> Stop {
    let stop = options.stop.valid();
    if start == Start::Manual {
        return stop;
    }
    if let Some(written) = &raw.options.stop.idle {
        let hint = "leave it out, or make the model `start = \"manual\"`";
        scope.notes.wrong(written, "`idle` is for manual models, but this one is always-on", hint);
    }
    Stop { idle: None, ..stop }
}

/// All aliases by name, those with a preset included.
fn alias_names(entry: &RawEntry) -> impl Iterator<Item = &At<String>> {
    entry.aliases.iter().filter_map(|alias| match alias {
        NameOr::Name(name) => Some(name),
        NameOr::Table(preset) => preset.name.as_ref(),
    })
}

fn aliases(scope: &Scope<'_>, entry: &RawEntry) -> Vec<String> {
    for alias in alias_names(entry) {
        if let Err(problem) = plain_word(&alias.value, 64) {
            let message = format!("the alias `{}` {problem}", quote(&alias.value));
            scope.notes.wrong(alias, message, "use a plain word, such as \"reasoning\"");
        }
    }
    alias_names(entry).map(|alias| alias.value.clone()).collect()
}

fn presets(scope: &Scope<'_>, entry: &RawEntry) -> Vec<Preset> {
    let tables = entry.aliases.iter().filter_map(|alias| match alias {
        NameOr::Name(_) => None,
        NameOr::Table(preset) => Some(preset),
    });
    tables.map(|raw| preset(scope, raw)).collect()
}

fn preset(scope: &Scope<'_>, raw: &RawPreset) -> Preset {
    let example = "for example { name = \"fast\", set = { temperature = 0.6 } }";
    let set = raw.set.valid();
    if !raw.at.has("name") {
        scope.notes.add(Some(raw.at.span()), "a preset needs `name`", example);
    }
    if !raw.at.has("set") {
        scope.notes.add(Some(raw.at.span()), "a preset needs `set`", example);
    } else if set == Sampling::default() && raw.set.at.is_empty() {
        let hint = "add a value, or write the alias alone: \"fast\"";
        scope.notes.add(Some(raw.set.at.span()), "`set` is empty", hint);
    }
    server::check_top_p(scope, raw.set.top_p.as_ref());
    // The gate refuses the same values in requests: the sampler divides by them.
    let least = [
        ("temperature", &raw.set.temperature, 1e-4),
        ("top_p", &raw.set.top_p, 1e-6),
        ("min_p", &raw.set.min_p, 1e-6),
    ];
    for (key, written, least) in least {
        if let Some(written) = written.as_ref().filter(|at| at.value > 0.0 && at.value < least) {
            scope.notes.wrong(written, format!("`{key}` is too close to zero"), format!("at least {least}"));
        }
    }
    Preset { name: raw.name.as_ref().map_or_else(String::new, |name| name.value.clone()), set }
}

fn alternatives(scope: &Scope<'_>, raw: &RawEntry) -> Vec<String> {
    for repo in raw.alternatives.iter().flat_map(|list| &list.value) {
        source(scope, repo);
    }
    values(raw.alternatives.as_ref())
}

fn check_name(scope: &Scope<'_>, name: &At<String>) {
    let hint = "use a short name, such as \"32b\"; it also names files";
    if let Err(problem) = plain_word(&name.value, 64) {
        scope.notes.wrong(name, format!("the name `{}` {problem}", quote(&name.value)), hint);
        return;
    }
    // NAME.log, NAME.json and NAME.sock are next to mlxctl.log, other.access.log and other.live.json.
    let lower = name.value.to_ascii_lowercase();
    if lower == "mlxctl" || lower.ends_with(".live") || lower.ends_with(".access") {
        let message = format!("the name `{}` is reserved for mlxctl's own files", name.value);
        scope.notes.wrong(
            name,
            message,
            "choose another one; not `mlxctl`, and not ending in `.live` or `.access`",
        );
    }
}

fn unique_names(scope: &Scope<'_>, models: &[RawModel]) {
    let mut seen: HashMap<String, (&'static str, &str)> = HashMap::new();
    // Names first: if an alias equals a name, the alias is the one to change.
    let entries = || models.iter().map(|model| &model.entry);
    let names = entries().filter_map(|entry| Some(("name", entry.name.as_ref()?, entry)));
    let aliases = entries().flat_map(|entry| alias_names(entry).map(move |alias| ("alias", alias, entry)));
    for (what, text, entry) in names.chain(aliases) {
        let owner = entry.name.as_ref().map_or("", |name| name.value.as_str());
        let Some((other, whose)) = seen.insert(text.value.to_ascii_lowercase(), (what, owner)) else {
            continue;
        };
        let taken = if other == "name" {
            "a model's name".to_owned()
        } else {
            format!("an alias of `{}`", quote(whose))
        };
        let hint = "names and aliases must be unique, ignoring case";
        scope.notes.wrong(text, format!("the {what} `{}` is already {taken}", quote(&text.value)), hint);
    }
}

fn unique_ports(scope: &Scope<'_>, models: &[RawModel]) {
    let mut seen: HashMap<u16, &str> = HashMap::new();
    let taken: Vec<u16> =
        models.iter().filter_map(|model| model.entry.port.as_ref().map(|port| port.value)).collect();
    for RawModel { entry, .. } in models {
        let Some(port) = &entry.port else { continue };
        let name = entry.name.as_ref().map_or("another model", |name| name.value.as_str());
        if let Some(other) = seen.get(&port.value) {
            let free = (port.value..=u16::MAX).find(|candidate| !taken.contains(candidate));
            let hint = free
                .map_or_else(|| "choose another".to_owned(), |free| format!("{free} is free in this file"));
            scope.notes.wrong(
                port,
                format!("port {} is already used by `{}`", port.value, quote(other)),
                hint,
            );
        } else {
            seen.insert(port.value, name);
        }
    }
}

/// Parses `30 tok/s`; the number must be above zero.
fn rate(scope: &Scope<'_>, written: &At<String>) -> Option<f64> {
    let number = written.value.trim().strip_suffix("tok/s").map(str::trim);
    let rate = number.and_then(|number| number.parse::<f64>().ok());
    let problem = match (number, rate) {
        (Some(_), Some(rate)) if rate.is_finite() && rate > 0.0 => return Some(rate),
        (Some(_), Some(_)) => "`target` must be above zero",
        (Some(_), None) => "`target` has no number in front of tok/s",
        (None, _) => "`target` must be in tok/s",
    };
    scope.notes.wrong(written, problem, "tokens per second, such as \"30 tok/s\"");
    None
}

fn check_ceiling(scope: &Scope<'_>, entry: &RawEntry, options: &RawOptions, size: Option<Bytes>) {
    let (Some(ceiling), Some(size)) = (&options.memory.ceiling, size) else { return };
    if ceiling.value < size {
        let name = entry.name.as_ref().map_or("the model", |name| name.value.as_str());
        scope.notes.wrong(
            ceiling,
            format!("`ceiling` is {}, and `{}` alone takes {size}", ceiling.value, quote(name)),
            "raise it above the model's size, with room for its caches, or leave it out",
        );
    }
}
