//! `[router]`

use std::net::SocketAddr;

use super::Scope;
use super::listeners::share;
use crate::registry::problem::quote;
use crate::registry::raw::RawRegistry;
use crate::registry::{Model, Network};

/// The router's port, if there is a router.
pub(super) fn port(
    scope: &Scope<'_>,
    raw: &RawRegistry,
    network: &Network,
    models: &[Model],
    beside: [(&'static str, Option<SocketAddr>); 2],
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
    let other = |port: u16| {
        let same = |address: SocketAddr| address.port() == port && share(network.host, address.ip());
        beside.iter().find(|(_, address)| address.is_some_and(same))
    };
    let taken = |port: u16| match models.iter().find(|model| model.port == port) {
        Some(model) => Some(format!("used by `{}`", quote(&model.name))),
        None => other(port).map(|(table, _)| format!("used by [{table}]")),
    };
    let Some(whose) = taken(port) else { return Some(port) };
    let hint = match (port..=u16::MAX).find(|free| taken(*free).is_none()) {
        Some(free) => format!("port = {free}"),
        None => "another port".to_owned(),
    };
    scope.notes.wrong(written, format!("port {port} is already {whose}"), hint);
    None
}
