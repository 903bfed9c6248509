//! `[network]`

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::Scope;
use crate::registry::Network;
use crate::registry::problem::quote;
use crate::registry::raw::RawNetwork;

pub(super) fn network(scope: &Scope<'_>, raw: &RawNetwork) -> Network {
    let exposed = raw.expose.as_ref().is_some_and(|expose| expose.value);
    Network {
        host: host(scope, raw, exposed),
        allow_from: allow_from(scope, raw),
        allow_origins: scope.texts("allow_origins", raw.allow_origins.as_ref(), origin),
        allow_hosts: scope.texts("allow_hosts", raw.allow_hosts.as_ref(), host_name),
        require_key: raw.require_key.as_ref().is_some_and(|require| require.value),
    }
}

fn host(scope: &Scope<'_>, raw: &RawNetwork, exposed: bool) -> IpAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(written) = &raw.host else { return loopback };
    let Ok(host) = written.value.parse::<IpAddr>() else {
        let message = format!("`host` = `{}` is no IP address", quote(&written.value));
        let hint = "the address of this machine in its network, or \"127.0.0.1\"; a name could mean another machine tomorrow";
        scope.notes.wrong(written, message, hint);
        return loopback;
    };
    let host = host.to_canonical();
    if host.is_unspecified() && !exposed {
        scope.notes.wrong(
            written,
            format!("`host` = {} listens on every network that this machine joins", written.value),
            "name one address of this machine, or add `expose = true` if that is meant",
        );
    } else if host.is_multicast() || matches!(host, IpAddr::V4(v4) if v4.is_broadcast()) {
        let message = format!("`host` = {host} is an address of many machines");
        scope.notes.wrong(written, message, "name one address of this machine");
    }
    host
}

fn allow_from(scope: &Scope<'_>, raw: &RawNetwork) -> Vec<IpNet> {
    let texts = scope.texts("allow_from", raw.allow_from.as_ref(), |text| match parse_network(text) {
        Some(_) => Ok(()),
        None => {
            Err(("no network".into(), "an address and a prefix: \"192.168.132.0/24\"; or one address".into()))
        }
    });
    texts.iter().filter_map(|text| parse_network(text)).collect()
}

/// `192.168.132.0/24`, or one address.
fn parse_network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some(net.trunc())
}

fn origin(text: &str) -> Result<(), (String, String)> {
    let hint = "scheme, host and port as a browser sends them: \"https://chat.example.org\"";
    if text == "*" {
        return Err((
            "every page that is visited could use the models".into(),
            format!("name each origin; {hint}"),
        ));
    }
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host)
            if !host.is_empty()
                && !host.contains(|c: char| c == '/' || c == '*' || !c.is_ascii_graphic()) =>
        {
            Ok(())
        }
        _ => Err(("no origin".into(), hint.into())),
    }
}

fn host_name(text: &str) -> Result<(), (String, String)> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !text.is_empty() && text.len() <= 253 && text.chars().all(fits) {
        return Ok(());
    }
    Err(("no host name".into(), "the name alone, without scheme and port: \"mac.local\"".into()))
}
