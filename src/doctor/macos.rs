//! What only a Mac has: the application firewall, reports of kernel panics.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::Finding;

/// The folder of `socketfilterfw`, which is in nobody's PATH.
pub const FIREWALL: &str = "/usr/libexec/ApplicationFirewall";

/// Whether the application firewall lets others connect. `global` and `app` are what `socketfilterfw` prints for
/// `--getglobalstate` and `--getappblocked PROGRAM`; empty: there is no such program here. Its words are in no manual:
/// what is not understood is shown as it is.
///
/// An ad-hoc signature counts as none, so a new binary is a stranger to a firewall that is on: connections from other
/// machines are dropped without a word, while those from this one pass.
#[must_use]
pub fn firewall(host: IpAddr, program: &Path, global: &str, app: &str) -> Finding {
    let id = "firewall";
    let (global, app) = (global.trim(), app.trim());
    if global.is_empty() {
        return Finding::skip(id, "no application firewall answers here");
    }
    if host.is_loopback() {
        return Finding::skip(id, "the gates listen on loopback alone");
    }
    let program = program.display();
    let allow = format!("sudo {FIREWALL}/socketfilterfw --add {program} --unblockapp {program}");
    let says = app.to_lowercase();
    if global.contains("State = 0") {
        Finding::ok(id, "off")
    } else if global.contains("State = 2") {
        Finding::fail(
            id,
            "it blocks all incoming connections, those of the models too",
            "System Settings > Network > Firewall > Options: \"Block all incoming connections\" off",
        )
    } else if says.contains("not part of the firewall") {
        let seen = format!(
            "it is on and does not know {program}: connections from other machines may be dropped although local \
             ones work"
        );
        Finding::warn(id, seen, format!("{allow}; again after each upgrade"))
    } else if says.contains("blocked") {
        Finding::fail(id, format!("it blocks {program}"), allow)
    } else if says.contains("permitted") {
        Finding::ok(id, format!("on; {program} may be connected"))
    } else {
        Finding::warn(id, format!("it is on and says of {program}: \"{app}\""), allow)
    }
}

/// Whether this boot began with a kernel panic. `reports`: `None`: this system writes none.
#[must_use]
pub fn panics(reports: Option<io::Result<Vec<String>>>) -> Finding {
    let id = "kernel-panics";
    match reports {
        None => Finding::skip(id, "this system writes no reports of them"),
        Some(Err(error)) => Finding::skip(id, format!("the reports cannot be read: {error}")),
        Some(Ok(reports)) => match reports.last() {
            None => Finding::ok(id, "none before this boot"),
            Some(last) => Finding::warn(
                id,
                format!("this Mac came up from a kernel panic: {last}; manual models wait for --force"),
                "keep memory.wired = \"off\", and see docs/operations.md, \"After a kernel panic\"",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    const LAN: &str = "192.168.1.20";

    fn state(host: &str, global: &str, app: &str) -> (State, String) {
        let found = firewall(host.parse().unwrap(), Path::new("/usr/local/bin/mlxctl"), global, app);
        (found.state, found.fix.unwrap_or_default())
    }

    #[test]
    fn a_firewall_that_drops_connections_is_told_with_the_command_that_lets_them_in() {
        let on = "Firewall is enabled. (State = 1)\n";
        let known = |app: &str| state(LAN, on, app);
        assert_eq!(state(LAN, "Firewall is disabled. (State = 0)\n", "").0, State::Ok);
        assert_eq!(known("Incoming connection to the application is permitted\n").0, State::Ok);
        let (unknown, fix) = known("The application is not part of the firewall\n");
        assert_eq!(unknown, State::Warn);
        assert!(fix.contains("--add /usr/local/bin/mlxctl --unblockapp /usr/local/bin/mlxctl"), "{fix}");
        assert_eq!(known("Incoming connection to the application is blocked\n").0, State::Fail);
        assert_eq!(known("Something new\n").0, State::Warn);
        let all = "Firewall is blocking all non-essential incoming connections. (State = 2)\n";
        assert_eq!(state(LAN, all, "").0, State::Fail);
    }

    #[test]
    fn it_is_no_matter_where_nobody_else_connects_or_there_is_none() {
        assert_eq!(state("127.0.0.1", "Firewall is enabled. (State = 1)", "").0, State::Skip);
        assert_eq!(state(LAN, "", "").0, State::Skip);
    }

    #[test]
    fn a_boot_after_a_panic_is_told() {
        assert_eq!(panics(None).state, State::Skip);
        assert_eq!(panics(Some(Err(io::ErrorKind::PermissionDenied.into()))).state, State::Skip);
        assert_eq!(panics(Some(Ok(vec![]))).state, State::Ok);
        let found = panics(Some(Ok(vec!["a.panic".into(), "b.panic".into()])));
        assert_eq!(found.state, State::Warn);
        assert!(found.seen.contains("b.panic"), "the last one: {}", found.seen);
    }
}
