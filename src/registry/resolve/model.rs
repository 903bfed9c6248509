//! `[[model]]`: each one, and what they may not share.

use std::collections::HashMap;

use super::source::source;
use super::{Scope, cluster, environment, options, plain_word, server};
use crate::registry::notes::At;
use crate::registry::problem::quote;
use crate::registry::raw::{RawModel, RawRegistry};
use crate::registry::{Model, Source, Start};
use crate::units::Bytes;

/// One entry for each that was written, in that order, valid or not.
pub(super) fn models(scope: &Scope<'_>, raw: &RawRegistry) -> Vec<Model> {
    if raw.models.is_empty() {
        // A `model` that is no list of tables was noted by the reader.
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
    let examples = ["name = \"32b\"", "repo = \"mlx-community/Qwen3-32B-4bit\"", "port = 8800"];
    for (_, example) in raw.written.iter().zip(examples).filter(|(written, _)| !**written) {
        let key = example.split(' ').next().unwrap_or_default();
        let who = raw
            .name
            .as_ref()
            .map_or_else(|| "a model".to_owned(), |name| format!("`{}`", quote(&name.value)));
        scope.notes.add(
            Some(raw.span.clone()),
            format!("{who} needs `{key}`"),
            format!("for example {example}"),
        );
    }
    if let Some(name) = &raw.name {
        check_name(scope, name);
    }
    for alias in raw.aliases.iter().flat_map(|list| &list.value) {
        if let Err(problem) = plain_word(&alias.value, 64) {
            scope.notes.wrong(
                alias,
                format!("the alias `{}` {problem}", quote(&alias.value)),
                "a plain word: \"reasoning\"",
            );
        }
    }
    let start = raw.start.as_ref().map_or(Start::Manual, |start| start.value);
    let size = raw.size.as_ref().map(|size| size.value);
    let memory = options::memory(&raw.options.memory, &file.defaults.memory);
    check_ceiling(scope, raw, file, size);
    Model {
        name: raw.name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        source: raw.repo.as_ref().map_or(Source::Tiny, |repo| source(scope, repo)),
        aliases: values(raw.aliases.as_ref()),
        alternatives: alternatives(scope, raw),
        port: raw.port.as_ref().map_or(0, |port| port.value),
        start,
        size,
        target: raw.target.as_ref().and_then(|target| rate(scope, target)),
        cluster: raw.cluster.as_ref().map(|cluster| cluster::cluster(scope, cluster, raw, &file.defaults)),
        environment: environment::model(scope, &raw.options.environment, &file.defaults.environment),
        server: server::server(scope, &raw.options.server, &file.defaults.server),
        health: options::health(scope, &raw.options.health, &file.defaults.health),
        restart: options::restart(scope, &raw.options.restart, &file.defaults.restart, start),
        stop: options::stop(&raw.options.stop, &file.defaults.stop),
        limits: options::limits(
            scope,
            &raw.options.limits,
            &file.defaults.limits,
            &memory,
            raw.cluster.is_some(),
        ),
        memory,
    }
}

fn values(list: Option<&At<Vec<At<String>>>>) -> Vec<String> {
    list.into_iter().flat_map(|list| &list.value).map(|text| text.value.clone()).collect()
}

fn alternatives(scope: &Scope<'_>, raw: &RawModel) -> Vec<String> {
    for repo in raw.alternatives.iter().flat_map(|list| &list.value) {
        source(scope, repo);
    }
    values(raw.alternatives.as_ref())
}

fn check_name(scope: &Scope<'_>, name: &At<String>) {
    let hint = "it names files and is typed often: \"32b\"";
    if let Err(problem) = plain_word(&name.value, 64) {
        scope.notes.wrong(name, format!("the name `{}` {problem}", quote(&name.value)), hint);
        return;
    }
    // NAME.log, NAME.json, NAME.sock lie beside mlxctl.log, other.access.log and other.live.json.
    let lower = name.value.to_ascii_lowercase();
    if lower == "mlxctl" || lower.ends_with(".live") || lower.ends_with(".access") {
        let message = format!("the name `{}` is taken by mlxctl's own files", name.value);
        scope.notes.wrong(
            name,
            message,
            "choose another; not `mlxctl`, nothing that ends in `.live` or `.access`",
        );
    }
}

fn unique_names(scope: &Scope<'_>, models: &[RawModel]) {
    let mut seen: HashMap<String, (&'static str, &str)> = HashMap::new();
    // Names first: where an alias is like a name, the alias is the one to change.
    let names = models.iter().filter_map(|model| Some(("name", model.name.as_ref()?, model)));
    let aliases = models.iter().flat_map(|model| {
        let list = model.aliases.iter().flat_map(|list| &list.value);
        list.map(move |alias| ("alias", alias, model))
    });
    for (what, text, model) in names.chain(aliases) {
        let owner = model.name.as_ref().map_or("", |name| name.value.as_str());
        let Some((other, whose)) = seen.insert(text.value.to_ascii_lowercase(), (what, owner)) else {
            continue;
        };
        let taken = if other == "name" {
            "a model's name".to_owned()
        } else {
            format!("an alias of `{}`", quote(whose))
        };
        let hint = "names and aliases are unique, upper and lower case taken together";
        scope.notes.wrong(text, format!("the {what} `{}` is already {taken}", quote(&text.value)), hint);
    }
}

fn unique_ports(scope: &Scope<'_>, models: &[RawModel]) {
    let mut seen: HashMap<u16, &str> = HashMap::new();
    let taken: Vec<u16> =
        models.iter().filter_map(|model| model.port.as_ref().map(|port| port.value)).collect();
    for model in models {
        let Some(port) = &model.port else { continue };
        let name = model.name.as_ref().map_or("another model", |name| name.value.as_str());
        if let Some(other) = seen.get(&port.value) {
            let free = (port.value..=u16::MAX).find(|candidate| !taken.contains(candidate));
            let hint = free.map_or_else(
                || "choose another".to_owned(),
                |free| format!("{free} is not used in this file"),
            );
            scope.notes.wrong(
                port,
                format!("port {} is already that of `{}`", port.value, quote(other)),
                hint,
            );
        } else {
            seen.insert(port.value, name);
        }
    }
}

/// `30 tok/s`, above zero.
fn rate(scope: &Scope<'_>, written: &At<String>) -> Option<f64> {
    let number = written.value.trim().strip_suffix("tok/s").map(str::trim);
    let rate = number.and_then(|number| number.parse::<f64>().ok());
    let problem = match (number, rate) {
        (Some(_), Some(rate)) if rate.is_finite() && rate > 0.0 => return Some(rate),
        (Some(_), Some(_)) => "`target` is above zero",
        (Some(_), None) => "`target` has no number in front of tok/s",
        (None, _) => "`target` has no unit, or another one than tok/s",
    };
    scope.notes.wrong(written, problem, "tokens a second: \"30 tok/s\"");
    None
}

fn check_ceiling(scope: &Scope<'_>, raw: &RawModel, file: &RawRegistry, size: Option<Bytes>) {
    let own = raw.options.memory.ceiling.as_ref();
    let (Some(ceiling), Some(size)) = (own.or(file.defaults.memory.ceiling.as_ref()), size) else { return };
    if ceiling.value < size {
        let name = raw.name.as_ref().map_or("the model", |name| name.value.as_str());
        scope.notes.wrong(
            ceiling,
            format!("`ceiling` is {}, and `{}` alone takes {size}", ceiling.value, quote(name)),
            "raise it above the model's size, with room for its caches, or leave it out",
        );
    }
}
