//! Commands from a gateway's host, over ssh: exit codes, and what a key with a forced command may do.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::unistd::{User, geteuid};

use crate::support::{Entry, Instance, skipped};

const SSHD: &str = "/usr/sbin/sshd";

fn instance() -> Instance {
    Instance::fake(vec![
        Entry::new("32b", "manual"),
        Entry::new("70b", "manual").with("aliases = [\"large\"]"),
    ])
    .serve()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Start, status, stop of the 70b, and what is refused; `ask` sends a command as an ssh client does.
fn the_key_does_what_it_is_for(instance: &Instance, ask: impl Fn(&str) -> Output) {
    let started = ask("mlxctl start 70b");
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    // Without a terminal progress is plain lines on stderr, and stdout is the result alone.
    assert!(!said(&started).contains(['\r', '\u{1b}']), "{}", said(&started));
    assert_eq!(String::from_utf8_lossy(&started.stdout).lines().count(), 1);
    assert_eq!(instance.model("70b")["state"], "ready");
    let status: serde_json::Value = serde_json::from_slice(&ask("mlxctl status --json").stdout).unwrap();
    assert_eq!(status["models"][1]["state"], "ready");
    for (asked, code) in [
        ("mlxctl start 32b", 2),
        ("mlxctl start 70b --force", 2),
        ("mlxctl stop 70b 32b", 2),
        ("mlxctl start 70b; echo broken >&2; exit 0", 2),
        ("echo broken", 2),
        ("", 2),
    ] {
        let refused = ask(asked);
        assert_eq!(refused.status.code(), Some(code), "{asked}: {}", said(&refused));
        assert!(said(&refused).starts_with("error: this key "), "{}", said(&refused));
        assert_eq!(refused.stdout, b"", "{asked}");
    }
    assert_eq!(ask("mlxctl stop large").status.code(), Some(0));
    let states: Vec<_> = ["32b", "70b"].map(|name| instance.model(name)["state"].clone()).into();
    assert_eq!(states, ["stopped", "stopped"]);
}

#[test]
fn a_forced_command_runs_what_the_client_asked_for_and_nothing_else() {
    let mut instance = instance();
    the_key_does_what_it_is_for(&instance, |asked| {
        let mut command = instance.mlxctl(&["ssh", "--model", "70b"]);
        command.env("SSH_ORIGINAL_COMMAND", asked).output().unwrap()
    });
    instance.end();
    let mut command = instance.mlxctl(&["ssh", "--model", "70b"]);
    let offline = command.env("SSH_ORIGINAL_COMMAND", "mlxctl start 70b").output().unwrap();
    assert_eq!(offline.status.code(), Some(3), "{}", said(&offline));
}

/// A real sshd, with which ssh communicates through a pipe, so it listens nowhere.
#[test]
fn exit_codes_and_output_come_through_a_real_sshd() {
    if !Path::new(SSHD).exists() || !Path::new("/usr/bin/ssh-keygen").exists() {
        return skipped("mlxctl over ssh", "no sshd (openssh-server)");
    }
    let Ok(Some(user)) = User::from_uid(geteuid()) else {
        return skipped("mlxctl over ssh", "this user has no name");
    };
    if geteuid().is_root() && std::fs::create_dir_all("/run/sshd").is_err() {
        return skipped("mlxctl over ssh", "sshd has no /run/sshd");
    }
    let instance = instance();
    let file = |name: &str| instance.root().join(name).display().to_string();
    for key in ["host", "client"] {
        let mut keygen = Command::new("ssh-keygen");
        assert!(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &file(key)]).status().unwrap().success());
    }
    let forced =
        format!("{} --config {} ssh --model 70b", env!("CARGO_BIN_EXE_mlxctl"), instance.config().display());
    let public = std::fs::read_to_string(file("client.pub")).unwrap();
    std::fs::write(file("authorized"), format!("restrict,command=\"{forced}\" {public}")).unwrap();
    let config = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         PermitRootLogin prohibit-password\n",
        file("host"),
        file("authorized")
    );
    std::fs::write(file("sshd"), config).unwrap();
    the_key_does_what_it_is_for(&instance, |asked| {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "LogLevel=ERROR",
        ]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-i", &file("client")]);
        ssh.args(["-o", &format!("ProxyCommand={SSHD} -i -f {}", file("sshd")), "-l", &user.name, "mac"]);
        if !asked.is_empty() {
            ssh.arg(asked);
        }
        ssh.stdin(Stdio::null()).output().unwrap()
    });
}
