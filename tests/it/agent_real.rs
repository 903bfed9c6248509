//! The real supervisor as a job of the service manager, from installation to removal: under a launchd that follows the
//! documented rules, and under a real systemd if the machine has one.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fake_launchd::{FakeLaunchd, wait};
use crate::support::{Entry, Instance, alive, copy_program, http, signal};
use crate::user_systemd::UserSystemd;

enum Manager {
    Launchd(FakeLaunchd),
    Systemd(UserSystemd),
}

struct Stage {
    instance: Instance,
    manager: Manager,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A failed test must not leave backends behind, which outlive a supervisor that is merely killed. This has to
        // happen before the manager is dropped with the fields.
        let _ = self.agent(&["uninstall"]);
    }
}

impl Stage {
    fn new(manager: Manager) -> Self {
        let instance = Instance::real(vec![Entry::new("tiny", "always"), Entry::new("other", "manual")]);
        if let Manager::Launchd(launchd) = &manager {
            // macOS 26: a replaced program is not started by its old job.
            launchd.set("pins", "");
        }
        let stage = Self { instance, manager };
        stage.put_program();
        stage
    }

    /// Our binary where the manager finds it: created next to the old one and then moved into its place, as an upgrade
    /// has to do it.
    fn put_program(&self) {
        let new = self.program().with_extension("new");
        copy_program(Path::new(env!("CARGO_BIN_EXE_mlxctl")), &new);
        std::fs::rename(new, self.program()).unwrap();
    }

    fn program(&self) -> PathBuf {
        match &self.manager {
            Manager::Launchd(launchd) => launchd.path("mlxctl"),
            Manager::Systemd(systemd) => systemd.path("mlxctl"),
        }
    }

    fn agent(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command: Command = self.instance.mlxctl(&["agent"]);
        match &self.manager {
            Manager::Launchd(launchd) => {
                command.env("HOME", launchd.folder.path()).arg("--launchctl").arg(launchd.program())
            }
            Manager::Systemd(systemd) => {
                command.envs(systemd.environment()).args(["--systemctl", "systemctl"])
            }
        };
        let output = command.args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.agent(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {out}{err}\n{}", self.log());
        out + &err
    }

    fn install(&self) -> String {
        self.ok(&["install", "--program", self.program().to_str().unwrap()])
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.instance.root().join("logs/mlxctl.log")).unwrap_or_default()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.agent(&["status", "--json"]).1).unwrap()
    }

    fn supervisor(&self) -> i32 {
        i32::try_from(self.status()["pid"].as_i64().expect("a supervisor")).unwrap()
    }

    fn answers(&self) {
        let body = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":4}"#;
        assert_eq!(http(self.instance.gate("tiny"), "POST", "/v1/chat/completions", body).0, 200);
    }

    /// Install, install again, crash, restart, upgrade, uninstall.
    fn live(&self) {
        let said = self.install();
        assert!(said.contains("tiny: ready"), "installed means that the model answers: {said}");
        self.answers();
        let (first, backend) = (self.supervisor(), self.instance.pid("tiny"));
        self.install();
        assert_eq!(self.supervisor(), first, "a second installation changed it");

        // A crash: the manager starts another supervisor, which adopts the backend.
        signal(first, Signal::SIGKILL);
        wait("another supervisor answers", || {
            let status = self.status();
            status["supervisor"].is_object() && status["pid"] != first
        });
        let second = self.supervisor();
        assert_eq!(self.instance.wait_state("tiny", "ready")["adopted"], true);
        assert_eq!(self.instance.pid("tiny"), backend, "the model was loaded again");

        let said = self.ok(&["restart"]);
        assert!(said.contains("still up: tiny"), "{said}");
        let third = self.supervisor();
        assert_ne!(third, second);

        self.put_program();
        self.ok(&["restart"]);
        let fourth = self.supervisor();
        assert_ne!(fourth, third);
        self.instance.wait_state("tiny", "ready");
        assert_eq!(self.instance.pid("tiny"), backend, "the model was loaded again");
        self.answers();

        self.ok(&["uninstall"]);
        assert_eq!(
            (&self.status()["loaded"], &self.status()["file_state"]),
            (&false.into(), &"missing".into())
        );
        for pid in [backend, fourth] {
            assert!(!alive(pid), "{pid} is still running");
        }
        assert!(self.instance.root().join("state/events.jsonl").exists(), "the history went with it");
    }
}

#[test]
fn under_launchds_rules_the_model_survives_its_supervisors() {
    Stage::new(Manager::Launchd(FakeLaunchd::start_at_home())).live();
}

#[test]
fn a_removed_agent_leaves_no_model_that_its_dead_supervisor_left() {
    let stage = Stage::new(Manager::Launchd(FakeLaunchd::start_at_home()));
    stage.install();
    let backend = stage.instance.pid("tiny");
    // Dead for good: launchd has no program to start.
    std::fs::remove_file(stage.program()).unwrap();
    signal(stage.supervisor(), Signal::SIGKILL);
    wait("launchd has no process", || stage.status()["pid"].is_null());
    assert!(alive(backend), "a backend outlives its supervisor");

    let said = stage.ok(&["uninstall"]);
    assert!(
        said.contains(&format!("tiny is still running without a supervisor, pid {backend}; stopping it")),
        "{said}"
    );
    assert!(!alive(backend), "{backend} is still running");
    assert!(stage.instance.root().join("state/events.jsonl").exists(), "the history went with it");
}

#[test]
fn under_systemd_the_model_survives_its_supervisors() {
    if let Some(systemd) = UserSystemd::start() {
        Stage::new(Manager::Systemd(systemd)).live();
    }
}
