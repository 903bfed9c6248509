//! A start that other machines need room for: they are asked over ssh, and one that is short of memory is named with
//! its terms. `ssh` is a script here that prints a file.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use crate::support::{Entry, Instance, program};

/// What stands in for the other machine.
struct Studio {
    folder: tempfile::TempDir,
}

impl Studio {
    fn new() -> Self {
        let studio = Self { folder: tempfile::tempdir().unwrap() };
        let (answer, asked) = (studio.answer(), studio.asked());
        // Ranks cannot be started through it: this is about what comes before.
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *\"'host' '--json'\"*) echo \"$*\" >>'{}'; . '{}';; *) exit 255;; esac\n",
            asked.display(),
            answer.display()
        );
        program::write(&studio.folder.path().join("ssh"), &script);
        studio
    }

    fn answer(&self) -> PathBuf {
        self.folder.path().join("answer")
    }

    fn asked(&self) -> PathBuf {
        self.folder.path().join("asked")
    }

    /// From now on, `ssh` runs this.
    fn runs(&self, script: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, script).unwrap();
        std::fs::rename(new, self.answer()).unwrap();
    }

    /// From now on the machine has `total` bytes, of which `available` are available.
    fn has(&self, total: u64, available: u64) {
        let report = json!({
            "schema": 1, "os": "Linux 6.18", "chip": null, "memory_bytes": total, "available_bytes": available,
            "gpu_limit_bytes": null, "version": env!("CARGO_PKG_VERSION"), "binary": null, "venv": null,
            "model": null, "rdma": [], "running": []
        });
        self.runs(&format!("cat <<'END'\n{report}\nEND\n"));
    }

    fn serve(&self, start: &'static str) -> Instance {
        let entry = Entry::new("m", start).with(
            "cluster = { backend = \"ring\", hosts = [{ ssh = \"127.0.0.1\", addresses = [\"10.77.0.1\"] }, \
             { ssh = \"studio\", addresses = [\"10.77.0.2\"] }] }\n\
             restart = { backoff_min = \"10ms\", backoff_max = \"50ms\", max_crashes = 100 }",
        );
        let mut instance = Instance::fake(vec![entry]);
        let path = std::env::var("PATH").unwrap_or_default();
        instance.env("PATH", &format!("{}:{path}", self.folder.path().display()));
        instance.serve()
    }
}

fn spawned(instance: &Instance) -> bool {
    instance.events().iter().any(|event| event["kind"] == "spawned")
}

/// Expects exit code 75; returns what was printed.
fn refused(instance: &Instance) -> String {
    let output = instance.run(&["start", "m"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{said}");
    said
}

#[test]
fn a_machine_with_room_is_asked_before_the_start_continues() {
    let studio = Studio::new();
    studio.has(64_000_000_000, 50_000_000_000);
    let instance = studio.serve("manual");
    instance.expect(0, &["start", "m", "--no-wait"]);
    assert!(spawned(&instance), "{:?}", instance.events());
    let asked = std::fs::read_to_string(studio.asked()).unwrap();
    assert!(asked.contains("BatchMode=yes") && asked.contains(" studio "), "{asked}");
    assert_eq!(asked.lines().count(), 1);
}

#[test]
fn a_machine_that_is_short_refuses_with_its_terms_and_force_asks_none() {
    let studio = Studio::new();
    studio.has(64_000_000_000, 1_000_000);
    let instance = studio.serve("manual");
    let said = refused(&instance);
    for term in ["on studio, ", "available now on studio:", "1.00 MB", "= missing", "free memory on studio"] {
        assert!(said.contains(term), "{term}: {said}");
    }
    let model = instance.model("m");
    assert_eq!((&model["state"], &model["restarts"]), (&json!("stopped"), &json!(0)));
    assert_eq!(instance.status()["budget"]["models_bytes"], 0, "what was granted here is free again");
    assert!(!spawned(&instance));

    std::fs::remove_file(studio.asked()).unwrap();
    instance.expect(0, &["start", "m", "--no-wait", "--force"]);
    assert!(!Path::new(&studio.asked()).exists());
    let forced = instance.events().into_iter().find(|event| event["kind"] == "forced").unwrap();
    assert_eq!(forced["text"], "started although studio was not asked for room");
}

#[test]
fn a_machine_that_cannot_be_reached_refuses_with_the_reason() {
    let studio = Studio::new();
    studio.runs("echo 'ssh: connect to host studio port 22: No route to host' >&2; exit 255\n");
    let instance = studio.serve("manual");
    let said = refused(&instance);
    assert!(
        said.contains("studio could not be asked for room") && said.contains("No route to host"),
        "{said}"
    );
    assert_eq!(instance.model("m")["state"], "stopped");
    assert!(!spawned(&instance));
}

#[test]
fn an_always_on_model_waits_for_the_other_machine_and_says_so() {
    let studio = Studio::new();
    studio.has(64_000_000_000, 1_000_000);
    let instance = studio.serve("always");
    let waiting = instance.wait_state("m", "backoff");
    assert!(waiting["reason"].as_str().unwrap().contains("on studio"), "{waiting}");
    assert!(!spawned(&instance));
    studio.has(64_000_000_000, 50_000_000_000);
    instance.wait_for("m", |_| spawned(&instance));
}

#[test]
fn the_loop_answers_while_a_machine_is_asked_and_a_stop_does_not_wait_for_it() {
    let studio = Studio::new();
    studio.runs("exec sleep 30\n");
    let instance = studio.serve("manual");
    let mut start = instance.mlxctl(&["start", "m"]);
    let mut start = start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let asking = instance.wait_state("m", "spawning");
    assert_eq!(asking["reason"], "asking the other machines of its cluster for room");
    assert!(instance.status()["budget"]["models_bytes"].as_u64().unwrap() > 0, "reserved when granted");
    instance.expect(0, &["stop", "m"]);
    assert_eq!(instance.model("m")["state"], "stopped");
    assert_eq!(start.wait().unwrap().code(), Some(75));
}
