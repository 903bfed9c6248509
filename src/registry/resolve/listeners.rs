//! `[metrics]` and `[page]`: one address each.

use std::net::{IpAddr, SocketAddr};

use super::Scope;
use crate::registry::notes::At;
use crate::registry::problem::quote;
use crate::registry::raw::RawRegistry;
use crate::registry::{Metrics, Model, Network, Page};

pub(super) fn metrics(scope: &Scope<'_>, raw: &RawRegistry, network: &Network, models: &[Model]) -> Metrics {
    let address = raw.metrics.address.as_ref();
    Metrics { address: address.and_then(|written| listener(scope, raw, written, "9464", network, models)) }
}

pub(super) fn page(
    scope: &Scope<'_>,
    raw: &RawRegistry,
    network: &Network,
    models: &[Model],
    metrics: &Metrics,
) -> Page {
    let Some(written) = &raw.page.address else {
        if let Some(table) = raw.page.at.table.clone().filter(|_| !raw.page.at.has("address")) {
            scope.notes.add(Some(table), "a page needs `address`", "address = \"127.0.0.1:9480\"");
        }
        return Page::default();
    };
    let Some(address) = listener(scope, raw, written, "9480", network, models) else {
        return Page::default();
    };
    let same = |other: SocketAddr| other.port() == address.port() && share(other.ip(), address.ip());
    if metrics.address.is_some_and(same) {
        let shown = quote(&written.value);
        scope.notes.wrong(
            written,
            format!("`address` = `{shown}` is already used by [metrics]"),
            "another port",
        );
        return Page::default();
    }
    Page { address: Some(address) }
}

/// Whether listeners with the same port would collide on these addresses.
pub(super) fn share(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

/// The address that was written, if we can listen there. `port` is an example for the hint.
fn listener(
    scope: &Scope<'_>,
    raw: &RawRegistry,
    written: &At<String>,
    port: &str,
    network: &Network,
    models: &[Model],
) -> Option<SocketAddr> {
    let wrong = |message: String, hint: &str| {
        scope.notes.wrong(written, message, hint);
        None
    };
    let shown = quote(&written.value);
    let Ok(address) = written.value.parse::<SocketAddr>() else {
        return wrong(
            format!("`address` must be an IP address with a port, not `{shown}`"),
            &format!("an IP address of this machine and a port: \"127.0.0.1:{port}\""),
        );
    };
    if address.port() == 0 {
        return wrong(format!("`address` = `{shown}` has no usable port"), "a port from 1 to 65535");
    }
    if address.ip().is_unspecified() && !raw.network.expose() {
        return wrong(
            format!("`address` = {shown} listens on every network this machine joins"),
            "name one address of this machine, or add `expose = true` to [network] if you want that",
        );
    }
    let taken = models.iter().find(|model| model.port == address.port());
    match taken.filter(|_| share(network.host, address.ip())) {
        Some(model) => wrong(
            format!("`address` = `{shown}` is used by the gate of `{}`", quote(&model.name)),
            "another port",
        ),
        None => Some(address),
    }
}
