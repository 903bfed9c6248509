//! What only a Mac has: the application firewall, reports of kernel panics.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::Finding;

/// The folder of `socketfilterfw`, which is not in PATH.
pub(crate) const FIREWALL: &str = "/usr/libexec/ApplicationFirewall";

/// Whether the application firewall lets others connect. `global` and `app` are what `socketfilterfw` prints for
/// `--getglobalstate` and `--getappblocked PROGRAM`; empty: there is no such program here. Its output is undocumented:
/// what is not understood is shown verbatim.
///
/// An ad-hoc signature counts as none, so a firewall that is on does not know a new binary: connections from other
/// machines are dropped silently, while those from this one pass.
pub(crate) fn firewall(host: IpAddr, program: &Path, global: &str, app: &str) -> Finding {
    let id = "firewall";
    let (global, app) = (global.trim(), app.trim());
    if global.is_empty() {
        return Finding::skip(id, "no application firewall answers here");
    }
    if host.is_loopback() {
        return Finding::skip(id, "the gates listen on loopback only");
    }
    let program = program.display();
    let allow = format!("sudo {FIREWALL}/socketfilterfw --add {program} --unblockapp {program}");
    match switched(global) {
        Switched::Off => return Finding::ok(id, "off"),
        Switched::Closed => {
            return Finding::fail(
                id,
                "it blocks all incoming connections, including those to the models",
                "System Settings > Network > Firewall > Options: turn off \"Block all incoming connections\"",
            );
        }
        Switched::Unknown => {
            return Finding::skip(id, format!("could not tell whether it is on; it says \"{global}\""));
        }
        Switched::On => {}
    }
    match admitted(app) {
        Some(Admitted::Yes) => Finding::ok(id, format!("on; it allows connections to {program}")),
        Some(Admitted::No) => Finding::fail(id, format!("it blocks {program}"), allow),
        Some(Admitted::Stranger) => {
            let seen = format!(
                "it is on and does not know {program}: connections from other machines may be dropped although local \
                 ones work"
            );
            Finding::warn(id, seen, format!("{allow}; repeat after each upgrade"))
        }
        None => {
            let seen = format!("it is on; could not tell whether it lets others reach {program}: \"{app}\"");
            Finding::warn(id, seen, allow)
        }
    }
}

/// The firewall's state, as `--getglobalstate` reports it.
#[derive(Debug, PartialEq, Eq)]
enum Switched {
    Off,
    On,
    /// It blocks all incoming connections to every program.
    Closed,
    Unknown,
}

/// By the number of the state if there is one, otherwise by known phrases.
fn switched(global: &str) -> Switched {
    let says = global.to_lowercase();
    let number = says.split_once("state").and_then(|(_, rest)| {
        rest.trim_start_matches([' ', '=', ':']).split(|char: char| !char.is_ascii_digit()).next()
    });
    match number {
        Some("0") => Switched::Off,
        Some("1") => Switched::On,
        Some("2") => Switched::Closed,
        _ if says.contains("block") && says.contains("all") => Switched::Closed,
        _ if says.contains("disabled") => Switched::Off,
        _ if says.contains("enabled") => Switched::On,
        _ => Switched::Unknown,
    }
}

/// What `--getappblocked` says about a program.
#[derive(Debug, PartialEq, Eq)]
enum Admitted {
    Yes,
    No,
    /// It is not in the firewall's list.
    Stranger,
}

fn admitted(app: &str) -> Option<Admitted> {
    let says = app.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| says.contains(word));
    if has(&["not part of the firewall", "not found", "no such"]) {
        Some(Admitted::Stranger)
    } else if has(&["permitted", "allow", "unblocked", "not blocked"])
        && !has(&["not permitted", "not allow"])
    {
        Some(Admitted::Yes)
    } else if has(&["blocked", "not permitted", "not allow"]) {
        Some(Admitted::No)
    } else {
        None
    }
}

/// Whether this boot followed a kernel panic. `reports`: its reports; `None`: this system writes none.
pub(crate) fn panics(reports: Option<io::Result<Vec<String>>>) -> Finding {
    let id = "kernel-panics";
    match reports {
        None => Finding::skip(id, "this system writes no panic reports"),
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
    fn a_firewall_that_drops_connections_is_reported_with_the_command_that_admits_them() {
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
    fn other_words_of_the_firewall_are_understood_or_shown() {
        for (says, is) in [
            ("Firewall is disabled.", Switched::Off),
            ("Firewall is enabled.", Switched::On),
            ("FIREWALL IS ENABLED (state=1)", Switched::On),
            ("State = 0", Switched::Off),
            ("Firewall is set to block all non-essential incoming connections", Switched::Closed),
            ("usage: socketfilterfw [--help]", Switched::Unknown),
            ("(State = 7)", Switched::Unknown),
        ] {
            assert_eq!(switched(says), is, "{says}");
        }
        for (says, is) in [
            ("The application is blocked", Some(Admitted::No)),
            ("The application is not blocked", Some(Admitted::Yes)),
            ("Application unblocked", Some(Admitted::Yes)),
            ("Incoming connections are not permitted", Some(Admitted::No)),
            ("Allow incoming connections", Some(Admitted::Yes)),
            ("", None),
        ] {
            assert_eq!(admitted(says), is, "{says}");
        }
        let unknown = firewall(LAN.parse().unwrap(), Path::new("/m"), "something new", "");
        assert_eq!(unknown.state, State::Skip);
        assert!(unknown.seen.contains("could not tell") && unknown.seen.contains("something new"));
    }

    #[test]
    fn a_firewall_does_not_matter_on_loopback_or_if_there_is_none() {
        assert_eq!(state("127.0.0.1", "Firewall is enabled. (State = 1)", "").0, State::Skip);
        assert_eq!(state(LAN, "", "").0, State::Skip);
    }

    #[test]
    fn a_boot_after_a_panic_is_reported() {
        assert_eq!(panics(None).state, State::Skip);
        assert_eq!(panics(Some(Err(io::ErrorKind::PermissionDenied.into()))).state, State::Skip);
        assert_eq!(panics(Some(Ok(vec![]))).state, State::Ok);
        let found = panics(Some(Ok(vec!["a.panic".into(), "b.panic".into()])));
        assert_eq!(found.state, State::Warn);
        assert!(found.seen.contains("b.panic"), "the last one: {}", found.seen);
    }
}
