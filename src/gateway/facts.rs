//! The facts that every format contains.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::registry::{Model, Registry, Start};

/// What a gateway has to know about this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    /// One per model, in the registry's order.
    pub backends: Vec<Backend>,
    /// The reasoning model: the one named `reasoning`, else the first that is always on.
    pub reasoning: Option<String>,
    /// The large model: the one named `large`, else the first other one that is started by hand.
    pub large: Option<String>,
    /// Whether the gates require a bearer key.
    pub needs_key: bool,
}

/// One model as its clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Backend {
    pub name: String,
    /// Base URL without a path: `http://192.168.132.21:8800`.
    pub url: String,
    /// What clients may call it: name, aliases, repository. Each name belongs to one model: a repository that two
    /// models serve means the first.
    pub names: Vec<String>,
    /// Whether it runs only when started by hand.
    pub on_demand: bool,
    /// Longest prompt and answer together, tokens; null: the model's own limit.
    pub context: Option<u32>,
    /// Longest answer that may be requested, tokens; null: no limit.
    pub max_tokens: Option<u32>,
}

/// The gates listen on the wildcard address, which clients cannot connect to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network.host is {host}, which other machines cannot connect to")]
pub(crate) struct NoAddress {
    /// The value of `network.host` in the registry.
    pub host: String,
}

impl Facts {
    /// Reads a registry; `host`: what clients call this machine, instead of `network.host`.
    ///
    /// # Errors
    /// [`NoAddress`] without a `host`, if `network.host` is `0.0.0.0` or `::`.
    pub(crate) fn new(registry: &Registry, host: Option<&str>) -> Result<Self, NoAddress> {
        let network = &registry.network;
        let host = match host {
            Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
            Some(host) => host.to_owned(),
            None if network.host.is_unspecified() => {
                return Err(NoAddress { host: network.host.to_string() });
            }
            None if network.host.is_ipv6() => format!("[{}]", network.host),
            None => network.host.to_string(),
        };
        let models = &registry.models;
        let reasoning = role(models, "reasoning", |model| model.start == Start::Always);
        let large = role(models, "large", |model| {
            model.start == Start::Manual && Some(&model.name) != reasoning.as_ref()
        });
        let mut backends: Vec<Backend> = models.iter().map(|model| backend(model, &host)).collect();
        let mut taken = BTreeSet::new();
        for backend in &mut backends {
            // The gates ignore the case of names.
            backend.names.retain(|name| taken.insert(name.to_lowercase()));
        }
        Ok(Self { backends, reasoning, large, needs_key: network.require_key })
    }

    /// The fallbacks for `name`: the models of the other roles.
    pub(crate) fn stand_ins(&self, name: &str) -> Vec<&str> {
        [&self.reasoning, &self.large]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .filter(|other| *other != name)
            .collect()
    }
}

fn backend(model: &Model, host: &str) -> Backend {
    let mut names = vec![model.name.clone()];
    names.extend(model.aliases.iter().cloned());
    names.push(model.source.to_string());
    Backend {
        name: model.name.clone(),
        url: format!("http://{host}:{}", model.port),
        names,
        on_demand: model.start == Start::Manual,
        context: model.memory.context,
        max_tokens: model.limits.max_tokens,
    }
}

fn role(models: &[Model], name: &str, otherwise: impl Fn(&Model) -> bool) -> Option<String> {
    let called = |model: &&Model| model.name == name || model.aliases.iter().any(|alias| alias == name);
    let found = models.iter().find(called).or_else(|| models.iter().find(|model| otherwise(model)));
    found.map(|model| model.name.clone())
}
