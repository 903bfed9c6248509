//! The network: the address, the ports, the allow-list.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Finding;
use crate::host::PortHolder;

/// Whether an interface has the gates' address.
pub(crate) fn address(host: IpAddr, present: &[IpAddr]) -> Finding {
    let id = "address";
    if host.is_loopback() || host.is_unspecified() || present.contains(&host) {
        return Finding::ok(id, host.to_string());
    }
    let have: Vec<String> = present.iter().filter(|ip| !ip.is_loopback()).map(IpAddr::to_string).collect();
    let have = if have.is_empty() {
        "this machine has only loopback".into()
    } else {
        format!("this machine has {}", have.join(", "))
    };
    Finding::warn(
        id,
        format!("no interface has {host}; {have}"),
        "join that network or change `host`; until then the gates serve loopback and wait",
    )
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortUse {
    Free,
    /// The supervisor of this registry has it.
    Ours,
    /// Another program has it; which one, if this user may see that.
    Taken(Option<PortHolder>),
    /// This user may not listen on it.
    Denied,
}

impl PortUse {
    /// Who uses a port that could not be bound. `holders`: the processes that listen on it; `supervisor`: its pid;
    /// `listens`: whether it says that its gate listens there, which decides if no process can be inspected.
    pub(crate) fn in_use(holders: Vec<PortHolder>, supervisor: Option<i32>, listens: bool) -> Self {
        let is_ours = |holder: &PortHolder| Some(holder.pid) == supervisor;
        // Both can hold the port, on different addresses; the supervisor knows whether this one is its own.
        if listens && (holders.is_empty() || holders.iter().any(is_ours)) {
            return Self::Ours;
        }
        let stranger = holders.iter().find(|holder| !is_ours(holder)).cloned();
        if stranger.is_none() && !holders.is_empty() { Self::Ours } else { Self::Taken(stranger) }
    }
}

/// Whether every gate can listen. `ports`: model, port, and who has it.
pub(crate) fn ports(ports: &[(String, u16, PortUse)]) -> Finding {
    let id = "ports";
    let with = |words: fn(&PortUse) -> Option<String>| -> Vec<String> {
        let named = ports.iter().filter_map(|(model, port, used)| Some((model, port, words(used)?)));
        named.map(|(model, port, words)| format!("{port} ({model}){words}")).collect()
    };
    let taken = with(|used| match used {
        PortUse::Taken(Some(holder)) => Some(format!(": {}, pid {}", holder.name, holder.pid)),
        PortUse::Taken(None) => Some(String::new()),
        _ => None,
    });
    let denied = with(|used| (*used == PortUse::Denied).then(String::new));
    let first = ports.iter().find_map(|(_, port, used)| match used {
        PortUse::Taken(holder) => Some((port, holder)),
        _ => None,
    });
    if let Some((port, holder)) = first {
        let fix = match holder {
            Some(holder) => format!("kill {} if you do not need it, or change `port`", holder.pid),
            // This user may not inspect it.
            None => {
                format!("sudo lsof -nP -iTCP:{port} -sTCP:LISTEN names the program; end it or change `port`")
            }
        };
        return Finding::fail(id, format!("another program listens on {}", taken.join(", ")), fix);
    }
    if !denied.is_empty() {
        return Finding::fail(
            id,
            format!("this user may not listen on {}", denied.join(", ")),
            "ports below 1024 need root: choose another `port`",
        );
    }
    let list = |ours: bool, whose: &str| {
        let of = ports.iter().filter(|entry| (entry.2 == PortUse::Ours) == ours);
        let all: Vec<String> = of.map(|(_, port, _)| port.to_string()).collect();
        (!all.is_empty()).then(|| format!("{} {whose}", all.join(", ")))
    };
    let both = [list(true, "held by the running supervisor"), list(false, "free")];
    Finding::ok(id, both.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// Whether the allow-list admits those who can reach the address, and only those.
pub(crate) fn allow_list(host: IpAddr, allowed: &[IpNet], require_key: bool) -> Finding {
    let id = "allow-list";
    if host.is_loopback() {
        return Finding::ok(id, "only this machine can connect");
    }
    if allowed.is_empty() && !require_key {
        return Finding::warn(
            id,
            format!("anyone who can reach {host} is served: there is no allow-list and no key"),
            format!("allow_from = [\"{}\"], or require_key = true", neighbours(host)),
        );
    }
    if let Some(all) = allowed.iter().find(|net| net.prefix_len() == 0) {
        return Finding::warn(
            id,
            format!("{all} allows everyone"),
            format!("allow_from = [\"{}\"]", neighbours(host)),
        );
    }
    if !allowed.is_empty() && !host.is_unspecified() && !allowed.iter().any(|net| net.contains(&host)) {
        let nets: Vec<String> = allowed.iter().map(IpNet::to_string).collect();
        return Finding::warn(
            id,
            format!("{} does not include {host}'s own network: neighbours are refused", nets.join(", ")),
            format!("add \"{}\" to allow_from if they should be served", neighbours(host)),
        );
    }
    let nets: Vec<String> = allowed.iter().map(IpNet::to_string).collect();
    Finding::ok(id, if nets.is_empty() { "keys are required".into() } else { nets.join(", ") })
}

/// The network around `host`, of the size usual at home: /24, or /64 for IPv6.
fn neighbours(host: IpAddr) -> String {
    let bits = if host.is_ipv4() { 24 } else { 64 };
    IpNet::new(host, bits).map_or_else(|_| host.to_string(), |net| net.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_no_interface_has_is_named_with_the_existing_ones() {
        let host = ip("192.168.132.21");
        assert_eq!(address(host, &[ip("127.0.0.1"), host]).state, State::Ok);
        assert_eq!(address(ip("127.0.0.1"), &[]).state, State::Ok);
        let away = address(host, &[ip("127.0.0.1"), ip("10.0.0.7")]);
        assert_eq!(away.state, State::Warn);
        assert!(away.seen.contains("this machine has 10.0.0.7"), "{}", away.seen);
    }

    #[test]
    fn a_strangers_port_fails_and_our_own_does_not() {
        let entry = |kind| [("32b".to_owned(), 8800, kind)];
        assert_eq!(ports(&entry(PortUse::Free)).state, State::Ok);
        assert_eq!(ports(&entry(PortUse::Ours)).state, State::Ok);
        assert!(ports(&entry(PortUse::Taken(None))).fix.unwrap().contains("iTCP:8800"));
        let holder = PortHolder { pid: 4711, name: "python3.12".into() };
        let known = ports(&entry(PortUse::Taken(Some(holder))));
        assert_eq!(known.seen, "another program listens on 8800 (32b): python3.12, pid 4711");
        assert!(known.fix.unwrap().starts_with("kill 4711 if"));
        assert_eq!(ports(&entry(PortUse::Denied)).state, State::Fail);
    }

    #[test]
    fn a_port_is_the_supervisors_only_where_it_holds_it() {
        let holder = |pid| PortHolder { pid, name: "x".into() };
        let ours = |holders: Vec<PortHolder>, listens| PortUse::in_use(holders, Some(7), listens);
        assert_eq!(ours(vec![holder(7)], true), PortUse::Ours);
        assert_eq!(
            ours(vec![holder(7)], false),
            PortUse::Ours,
            "its router, or a gate waiting for its address"
        );
        assert_eq!(
            ours(vec![holder(9)], true),
            PortUse::Taken(Some(holder(9))),
            "whatever the supervisor says"
        );
        assert_eq!(ours(vec![holder(7), holder(9)], false), PortUse::Taken(Some(holder(9))));
        assert_eq!(ours(vec![holder(7), holder(9)], true), PortUse::Ours);
        assert_eq!(ours(vec![], true), PortUse::Ours);
        assert_eq!(ours(vec![], false), PortUse::Taken(None));
        assert_eq!(PortUse::in_use(vec![holder(7)], None, false), PortUse::Taken(Some(holder(7))));
        let some = [("a".to_owned(), 1, PortUse::Ours), ("b".to_owned(), 2, PortUse::Free)];
        assert_eq!(ports(&some).seen, "1 held by the running supervisor; 2 free");
    }

    #[test]
    fn the_allow_list_must_fit_the_address() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let host = ip("192.168.132.21");
        assert_eq!(allow_list(host, &nets(&["192.168.132.0/24"]), false).state, State::Ok);
        assert_eq!(allow_list(host, &[], true).state, State::Ok);
        assert_eq!(allow_list(ip("127.0.0.1"), &[], false).state, State::Ok);
        assert_eq!(allow_list(host, &nets(&["0.0.0.0/0"]), false).state, State::Warn);
        assert_eq!(allow_list(host, &nets(&["10.0.0.0/8"]), false).state, State::Warn);
        let open = allow_list(host, &[], false);
        assert_eq!(open.state, State::Warn);
        assert!(open.fix.unwrap().contains("192.168.132.0/24"));
    }
}
