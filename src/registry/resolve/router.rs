//! `[router]`

use super::Scope;
use crate::registry::problem::quote;
use crate::registry::raw::RawRegistry;
use crate::registry::{Metrics, Model, Network};

/// The router's port, if there is a router.
pub(super) fn port(
    scope: &Scope<'_>,
    raw: &RawRegistry,
    network: &Network,
    models: &[Model],
    metrics: &Metrics,
) -> Option<u16> {
    let Some(written) = &raw.router.port else {
        if let Some(table) = raw.router.at.table.clone().filter(|_| !raw.router.at.has("port")) {
            scope.notes.add(Some(table), "a router needs `port`", "port = 8899");
        }
        return None;
    };
    for model in raw.models.iter().filter_map(|model| model.entry.name.as_ref()) {
        if model.value.eq_ignore_ascii_case("router") {
            let problem = "a model called `router` would share its access log with [router]";
            scope.notes.wrong(model, problem, "another name");
        }
    }
    let port = written.value;
    let of_metrics = metrics.address.filter(|address| {
        network.host == address.ip() || network.host.is_unspecified() || address.ip().is_unspecified()
    });
    let taken = |port: u16| match models.iter().find(|model| model.port == port) {
        Some(model) => Some(format!("that of `{}`", quote(&model.name))),
        None => of_metrics.filter(|address| address.port() == port).map(|_| "that of [metrics]".to_owned()),
    };
    let Some(whose) = taken(port) else { return Some(port) };
    let hint = match (port..=u16::MAX).find(|free| taken(*free).is_none()) {
        Some(free) => format!("port = {free}"),
        None => "another port".to_owned(),
    };
    scope.notes.wrong(written, format!("port {port} is already {whose}"), hint);
    None
}
