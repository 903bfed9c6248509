//! Who may ask: networks, host names, browser origins, keys. Pure.

use std::net::IpAddr;

use super::keys::KeyRing;
use crate::gate::wire::{Refusal, shown};
use crate::registry::Network;

/// Who sends a request, according to its bearer key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Keys are not required, so none was read.
    Anyone,
    /// The valid key of this name.
    Named(String),
    /// A key is required, and the request has none.
    Missing,
    /// The key is unknown, revoked, or not for models.
    Unknown,
}

/// Identifies the sender by its `Authorization` header.
pub(crate) fn caller(authorization: Option<&str>, network: &Network, keys: &KeyRing) -> Caller {
    if !network.require_key {
        return Caller::Anyone;
    }
    match authorization.and_then(bearer) {
        None => Caller::Missing,
        Some(key) => keys.holder(key).map_or(Caller::Unknown, Caller::Named),
    }
}

/// The key in an `Authorization` header.
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, key) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Checks that `Host` names this gate. A page whose domain was pointed at this address (DNS rebinding) sends its own
/// domain there; an IP address cannot be pointed elsewhere.
///
/// # Errors
/// 421 for a name that is not on the list.
pub(crate) fn check_host(host: Option<&str>, local: IpAddr, network: &Network) -> Result<(), Refusal> {
    let Some(host) = host else { return Ok(()) };
    let name = host_name(host);
    let known = name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == local || ip == network.host)
        || network.allow_hosts.iter().any(|allowed| host_name(allowed).eq_ignore_ascii_case(name));
    if known {
        return Ok(());
    }
    let message =
        format!("this server is not '{}'; its allowed names are listed in network.allow_hosts", shown(name));
    Err(Refusal::new(421, "host_not_allowed", message))
}

/// `host` without its port, `[::1]` without its brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(host, |(name, _)| name);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// The origin to answer with CORS headers. Programs send none; browsers send one with every POST and with every request
/// that a script of another site makes.
///
/// # Errors
/// 403 for an origin that is not on the list, `null` included.
pub(crate) fn check_origin<'o>(
    origin: Option<&'o str>,
    network: &Network,
) -> Result<Option<&'o str>, Refusal> {
    let Some(origin) = origin else { return Ok(None) };
    if network.allow_origins.iter().any(|allowed| allowed == origin) {
        return Ok(Some(origin));
    }
    let message = format!(
        "pages of '{}' may not use this server; allowed origins are listed in network.allow_origins",
        shown(origin)
    );
    Err(Refusal::new(403, "origin_not_allowed", message))
}

/// # Errors
/// 401 without a valid key if one is required.
pub(crate) fn check_caller(caller: &Caller) -> Result<(), Refusal> {
    let message = match caller {
        Caller::Anyone | Caller::Named(_) => return Ok(()),
        Caller::Missing => {
            "a key is required: send 'Authorization: Bearer KEY' (create one with 'mlxctl key add NAME')"
        }
        Caller::Unknown => "this key is not known here; it may have been revoked, or be one for the page",
    };
    Err(Refusal::new(401, "invalid_api_key", message))
}

/// For a client whose address is in no allowed network.
pub(crate) fn stranger(client: IpAddr) -> Refusal {
    let message =
        format!("clients at {client} are not allowed; allowed networks are listed in network.allow_from");
    Refusal::new(403, "address_not_allowed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        Network {
            host: "192.168.132.21".parse().unwrap(),
            allow_from: vec!["192.168.132.0/24".parse().unwrap()],
            allow_origins: vec!["https://ui.example".to_owned()],
            allow_hosts: vec!["tpm-macbook.local".to_owned()],
            require_key: false,
        }
    }

    #[test]
    fn a_rebound_name_is_refused_and_the_gates_own_address_is_not() {
        let local = "10.0.0.7".parse().unwrap();
        let check = |host: &str| check_host(Some(host), local, &network()).is_ok();
        for host in [
            "192.168.132.21:8800",
            "192.168.132.21",
            "10.0.0.7:1",
            "localhost:8800",
            "127.0.0.1",
            "[::1]:8800",
            "TPM-macbook.local:8800",
        ] {
            assert!(check(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8800",
            "192.168.132.21.evil.example",
            "",
            "localhost.evil.example",
            "10.0.0.8",
            "[::2]",
            "127.0.0.1@evil.example",
        ] {
            assert!(!check(host), "{host}");
        }
        assert!(check_host(None, local, &network()).is_ok());
    }

    #[test]
    fn only_listed_origins_are_allowed() {
        assert_eq!(check_origin(None, &network()), Ok(None));
        assert_eq!(check_origin(Some("https://ui.example"), &network()), Ok(Some("https://ui.example")));
        for origin in ["null", "https://ui.example.evil", "http://ui.example", "https://UI.example", ""] {
            assert_eq!(check_origin(Some(origin), &network()).unwrap_err().status, 403, "{origin}");
        }
    }

    #[test]
    fn the_scheme_is_case_insensitive() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer"), None);
    }
}
