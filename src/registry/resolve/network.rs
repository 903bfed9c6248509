//! `[network]`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Scope;
use crate::registry::Network;
use crate::registry::keys::RawNetwork;
use crate::registry::problem::quote;

pub(super) fn network(scope: &Scope<'_>, raw: &RawNetwork) -> Network {
    Network {
        host: host(scope, raw),
        allow_from: allow_from(scope, raw),
        allow_origins: scope.texts("allow_origins", raw.allow_origins.as_ref(), origin),
        allow_hosts: scope.texts("allow_hosts", raw.allow_hosts.as_ref(), host_name),
        require_key: raw.require_key(),
    }
}

fn host(scope: &Scope<'_>, raw: &RawNetwork) -> IpAddr {
    let parsed = raw.host().parse::<IpAddr>();
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(written) = &raw.host else { return parsed.unwrap_or(loopback) };
    let Ok(host) = parsed else {
        let message = format!("`host` must be an IP address, not a name (`{}`)", quote(&written.value));
        let hint = "the address of this machine in its network, or \"127.0.0.1\"; a name could refer to another machine later";
        scope.notes.wrong(written, message, hint);
        return loopback;
    };
    let host = host.to_canonical();
    if host.is_unspecified() && !raw.expose() {
        scope.notes.wrong(
            written,
            format!("`host` = {} listens on every network this machine joins", written.value),
            "name one address of this machine, or add `expose = true` if you want that",
        );
    } else if host.is_multicast() || matches!(host, IpAddr::V4(v4) if v4.is_broadcast()) {
        let message = format!("`host` = {host} is not the address of a single machine");
        scope.notes.wrong(written, message, "name one address of this machine");
    }
    host
}

fn allow_from(scope: &Scope<'_>, raw: &RawNetwork) -> Vec<IpNet> {
    let texts = scope.texts("allow_from", raw.allow_from.as_ref(), |text| match parse_network(text) {
        Some(_) => Ok(()),
        None => Err((
            "not a network".into(),
            "an address and a prefix: \"192.168.132.0/24\"; or one address".into(),
        )),
    });
    texts.iter().filter_map(|text| parse_network(text)).collect()
}

/// Parses `192.168.132.0/24`, or a single address, and clears host bits.
fn parse_network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some(net.trunc())
}

fn origin(text: &str) -> Result<(), (String, String)> {
    let hint = "scheme, host and port as a browser sends them: \"https://chat.example.org\" or \"app://obsidian.md\"";
    if text == "*" {
        return Err((
            "every page visited in a browser could use the models".into(),
            format!("name each origin; {hint}"),
        ));
    }
    if text == "null" {
        return Err((
            "every sandboxed page and local file has this origin".into(),
            format!("name each origin; {hint}"),
        ));
    }
    if is_origin(text) { Ok(()) } else { Err(("not an origin".into(), hint.into())) }
}

/// Whether it is `scheme://host[:port]`, with any scheme: desktop programs and browser extensions have their own.
fn is_origin(text: &str) -> bool {
    let Some((scheme, place)) = text.split_once("://") else { return false };
    let in_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let in_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let (host, port) = match place.strip_prefix('[') {
        // An IPv6 address contains colons itself.
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => (address, port),
            _ => return false,
        },
        None => match place.find(':') {
            Some(colon) => place.split_at(colon),
            None => (place, ""),
        },
    };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(in_scheme)
        && !host.is_empty()
        && (place.starts_with('[') || host.chars().all(in_host))
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn host_name(text: &str) -> Result<(), (String, String)> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !text.is_empty() && text.len() <= 253 && text.chars().all(fits) {
        return Ok(());
    }
    Err(("not a host name".into(), "only the name, without scheme and port: \"mac.local\"".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_any_scheme_host_and_port_and_nothing_else() {
        for text in [
            "https://chat.example.org",
            "http://localhost:3000",
            "http://[::1]:8080",
            "http://[fe80::1]",
            "app://obsidian.md",
            "tauri://localhost",
            "capacitor://localhost",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://5b2c9f1e-7f0c-4d5e-9f43-0123456789ab",
            "vscode-webview://1a2b3c",
        ] {
            assert_eq!(origin(text), Ok(()), "{text}");
        }
        for text in [
            "null",
            "*",
            "",
            "https://",
            "://host",
            "chat.example.org",
            "https://*.example.org",
            "*://chat.example.org",
            "https://chat.example.org/",
            "https://chat.example.org/path",
            "https://me@chat.example.org",
            "https://chat.example.org:",
            "https://chat.example.org:0",
            "https://chat.example.org:65536",
            "https://chat.example.org:1:2",
            "https://chat example.org",
            "https://[::1",
            "https://[::1]x",
            "https://[]",
            "1app://host",
            "app:host",
            "https://a,https://b",
            "https://a\r\nx: y",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
