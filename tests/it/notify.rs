//! The owner is notified of what matters, once per episode; the menu bar shows what `status` says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Entry, Instance, PATIENCE, alive, signal};

const QUICK: &str =
    "restart = { stable_after = \"100ms\", backoff_min = \"100ms\", backoff_max = \"200ms\" }";

/// An instance with one always-on model that appends its notifications to a file.
fn telling(kinds: &str) -> (Instance, PathBuf) {
    let instance = Instance::fake(vec![
        Entry::new("m", "always").with(QUICK),
        Entry::new("big", "manual"),
        Entry::new("huge", "manual"),
    ]);
    let file = instance.root().join("told");
    let notify = format!(
        "reserve = []\n[notify]\nkinds = {kinds}\ncommand = [\"/bin/sh\", \"-c\", \"cat >> {}\"]",
        file.display()
    );
    (instance.memory(&notify), file)
}

fn told(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn wait_told(instance: &Instance, file: &Path, count: usize) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let told = told(file);
        if told.len() >= count {
            return told;
        }
        assert!(began.elapsed() < PATIENCE, "{told:#?}\n{:#?}", instance.events());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_model_that_is_down_is_reported_once_with_a_hint_and_again_after_it_was_ready() {
    let (mut instance, file) = telling("[\"failed\"]");
    let weights = instance.root().join("model/model.safetensors");
    let aside = instance.root().join("aside");
    std::fs::rename(&weights, &aside).unwrap();
    instance.serve_again();
    let first = wait_told(&instance, &file, 1).remove(0);
    assert_eq!(
        (&first["kind"], &first["model"], &first["test"]),
        (&"failed".into(), &"m".into(), &false.into())
    );
    assert!(first["text"].as_str().unwrap().contains("safetensors"), "{first}");
    assert!(first["hint"].as_str().unwrap().contains("complete the folder"), "{first}");
    // The same problem, found again by a person's start and by the next supervisor.
    assert_eq!(instance.run(&["start", "m"]).status.code(), Some(1));
    instance.end();
    instance.serve_again();
    instance.wait_state("m", "failed");
    std::fs::rename(&aside, &weights).unwrap();
    instance.wait_state("m", "ready");
    assert_eq!(told(&file).len(), 1);
    // The model was ready, so the next problem is reported.
    std::fs::rename(&weights, &aside).unwrap();
    let pid = instance.pid("m");
    signal(pid, nix::sys::signal::Signal::SIGKILL);
    let second = wait_told(&instance, &file, 2).remove(1);
    assert_eq!((&second["kind"], alive(pid)), (&"failed".into(), false));
    assert!(second["seq"].as_u64() > first["seq"].as_u64());
}

#[test]
fn a_refused_start_and_a_revoked_key_are_reported_and_a_failing_command_is_an_event() {
    let (instance, file) = telling("[\"refused\", \"key-revoked\"]");
    instance.expect(0, &["key", "add", "phone"]);
    let instance = instance.serve();
    instance.wait_state("m", "ready");
    std::fs::remove_file(instance.root().join("model/model.safetensors")).unwrap();
    instance.expect(1, &["start", "big"]);
    assert_eq!(instance.run(&["start", "big"]).status.code(), Some(1));
    let refused = wait_told(&instance, &file, 1).remove(0);
    assert_eq!((&refused["kind"], &refused["model"]), (&"refused".into(), &"big".into()), "{refused}");
    instance.expect(0, &["key", "revoke", "phone"]);
    let all = wait_told(&instance, &file, 2);
    assert_eq!(all[1]["kind"], "key-revoked");
    assert!(all[1]["text"].as_str().unwrap().contains("phone"), "{}", all[1]);
    assert!(instance.events().iter().all(|event| event["kind"] != "notify_failed"));
    // A missing command does not stop anything.
    let broken = std::fs::read_to_string(instance.config()).unwrap().replace("/bin/sh", "/no/such/sh");
    std::fs::write(instance.config(), broken).unwrap();
    let said = instance.expect(0, &["reload"]);
    assert!(said.contains("[notify]") && said.contains("command"), "{said}");
    assert_eq!(instance.run(&["start", "huge"]).status.code(), Some(1));
    let began = Instant::now();
    while !instance.events().iter().any(|event| event["kind"] == "notify_failed") {
        assert!(began.elapsed() < PATIENCE, "{:#?}", instance.events());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(instance.model("m")["state"], "ready");
}

#[test]
fn a_test_uses_every_configured_way_and_reports_the_results() {
    let (instance, file) = telling("[\"failed\"]");
    assert_eq!(instance.expect(0, &["notify", "--test"]), "command: sent\n");
    let told = told(&file);
    assert_eq!((told.len(), &told[0]["test"], &told[0]["kind"]), (1, &true.into(), &Value::Null));
    let instance = instance
        .memory("reserve = []\n[notify]\ncommand = [\"/bin/sh\", \"-c\", \"echo no token >&2; exit 4\"]");
    let said = instance.expect(1, &["notify", "--test"]);
    assert_eq!(said, "command: failed, /bin/sh failed (exit status: 4): no token\n");
    assert_eq!(instance.run(&["notify"]).status.code(), Some(2));
    let instance = instance.memory("reserve = []");
    let output = instance.run(&["notify", "--test"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("configures no notifications") && said.contains("desktop = true"), "{said}");
}

/// What the recipe for SwiftBar and xbar prints.
fn menu(instance: &Instance, binary: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/menubar/mlxctl.30s.sh");
    let output = Command::new("/bin/sh")
        .arg(script)
        .env("MLXCTL", binary)
        .env("MLXCTL_CONFIG", instance.config())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_menu_bar_shows_what_status_says() {
    let (instance, _) = telling("[]");
    let binary = env!("CARGO_BIN_EXE_mlxctl");
    let none = menu(&instance, binary);
    assert!(none.starts_with("mlx 0/3?\n---\nno supervisor is running"), "{none}");
    let instance = instance.serve();
    instance.wait_state("m", "ready");
    let up = menu(&instance, binary);
    let lines: Vec<&str> = up.lines().collect();
    assert_eq!(lines[..2], ["mlx 1/3", "---"]);
    assert!(lines[2].starts_with("m: ready, ") && lines[2].ends_with(" | color=green"), "{up}");
    let start = format!("--Start | bash=\"{binary}\" param1=start param2=big terminal=true");
    let stop = format!("--Stop | bash=\"{binary}\" param1=stop param2=m terminal=true");
    assert!(lines.contains(&start.as_str()) && lines.contains(&stop.as_str()), "{up}");
    assert!(up.contains(" free of "), "{up}");
    assert!(menu(&instance, "/no/such/mlxctl").starts_with("mlxctl ?\n---\n"));
    std::fs::write(instance.config(), "not = [toml").unwrap();
    let weird = menu(&instance, "/usr/bin/true");
    assert_eq!(weird, "mlxctl !\n---\nmlxctl status prints nothing\n");
}
