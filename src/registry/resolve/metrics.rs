//! `[metrics]`

use std::net::SocketAddr;

use super::Scope;
use crate::registry::problem::quote;
use crate::registry::raw::RawRegistry;
use crate::registry::{Metrics, Model, Network};

pub(super) fn metrics(scope: &Scope<'_>, raw: &RawRegistry, network: &Network, models: &[Model]) -> Metrics {
    let Some(written) = &raw.metrics.address else { return Metrics::default() };
    let wrong = |message: String, hint: &str| {
        scope.notes.wrong(written, message, hint);
        Metrics::default()
    };
    let shown = quote(&written.value);
    let Ok(address) = written.value.parse::<SocketAddr>() else {
        return wrong(
            format!("`address` must be an IP address with a port, not `{shown}`"),
            "an IP address of this machine and a port: \"127.0.0.1:9464\"",
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
    match taken.filter(|_| {
        network.host == address.ip() || network.host.is_unspecified() || address.ip().is_unspecified()
    }) {
        Some(model) => wrong(
            format!("`address` = `{shown}` is where the gate of `{}` listens", quote(&model.name)),
            "another port",
        ),
        None => Metrics { address: Some(address) },
    }
}
