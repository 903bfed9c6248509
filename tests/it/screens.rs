//! What a person sees: missing files, ports that another program has, backends without a supervisor, programs to yield
//! to, and what happens when the terminal is closed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Entry, Instance, alive, copy_program, free_port, http, venv};

const QUICK: &str = "restart = { backoff_min = \"100ms\", backoff_max = \"1s\" }";

/// A hub's cache with `org/model` in it, as `huggingface_hub` lays it out, made from the stand-in's model.
fn fill_cache(cache: &Path, model: &Path) {
    let repo = cache.join("models--org--model");
    let snapshot = repo.join("snapshots").join("0123456789abcdef0123456789abcdef01234567");
    std::fs::create_dir_all(repo.join("blobs")).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for file in std::fs::read_dir(model).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), snapshot.join(file.file_name())).unwrap();
    }
    std::fs::write(repo.join("refs/main"), "0123456789abcdef0123456789abcdef01234567").unwrap();
}

fn kinds(instance: &Instance) -> Vec<String> {
    let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
    instance.events().iter().map(kind).collect()
}

#[test]
fn a_model_that_is_not_downloaded_is_failed_and_starts_once_it_is() {
    let mut instance = Instance::fake(vec![Entry::new("m", "always").repo("org/model").with(QUICK)]);
    let cache = instance.root().join("hub");
    instance.env("HF_HUB_CACHE", &cache.display().to_string());
    let instance = instance.serve();
    let down = instance.wait_state("m", "failed");
    assert_eq!(down["reason"], "org/model is not downloaded");
    assert_eq!(down["hint"], "mlxctl pull m");
    let (code, body) = http(instance.gate("m"), "POST", "/v1/chat/completions", r#"{"messages":[]}"#);
    assert!(code == 503 && body.contains("not downloaded") && !body.contains("loading"), "{code} {body}");
    let output = instance.run(&["start", "m"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mlxctl pull m"));
    let seen = kinds(&instance);
    assert!(!seen.iter().any(|kind| kind == "spawned" || kind == "backoff"), "{seen:?}");
    fill_cache(&cache, &instance.root().join("model"));
    instance.wait_for("m", |model| model["state"] != "failed");
    assert!(kinds(&instance).contains(&"spawned".to_owned()));
}

#[test]
fn missing_files_do_not_stop_a_running_model() {
    let mut instance = Instance::fake(vec![Entry::new("m", "always")]);
    instance.models[0] = Entry::new("m", "always").with("alternatives = [\"org/model\"]");
    instance.write_registry();
    let cache = instance.root().join("hub");
    instance.env("HF_HUB_CACHE", &cache.display().to_string());
    let instance = instance.serve();
    instance.wait_state("m", "ready");
    let pid = instance.pid("m");
    let own = instance.root().join("model").display().to_string();

    let used = instance.run(&["use", "m", "org/model"]);
    let said = String::from_utf8_lossy(&used.stderr).into_owned();
    assert!(used.status.success() && said.contains("mlxctl pull m && mlxctl reload"), "{said}");
    let told = instance.expect(0, &["reload"]);
    assert!(told.contains("org/model is not downloaded (mlxctl pull m)"), "{told}");
    let restarted = instance.run(&["restart", "m"]);
    let said = String::from_utf8_lossy(&restarted.stderr).into_owned();
    assert_eq!(restarted.status.code(), Some(75), "{said}");
    assert!(said.contains("the current run continues") && said.contains("mlxctl pull m"), "{said}");
    let model = instance.model("m");
    assert_eq!((model["state"].as_str(), instance.pid("m")), (Some("ready"), pid));
    assert_eq!((model["repo"].as_str(), model["running_repo"].as_str()), (Some("org/model"), Some(&*own)));
    assert!(model["outdated"].as_str().unwrap().contains("org/model"), "{model}");
}

#[test]
fn reload_reports_changes_other_than_models() {
    let mut instance = Instance::fake(vec![Entry::new("m", "manual")]).serve();
    instance.memory = "reserve = [{ name = \"macOS\", size = \"1GB\" }]\nyield = [\"Civ5XP\"]".to_owned();
    instance.write_registry();
    let told = instance.expect(0, &["reload", "--dry-run"]);
    assert!(told.contains("[memory]") && told.contains("reserve macOS 1.00 GB added, yield"), "{told}");
    assert_eq!(told, instance.expect(0, &["reload"]));
    assert_eq!(instance.expect(0, &["reload"]), "nothing changed\n");
}

#[test]
fn a_gate_whose_port_another_program_has_is_not_shown_as_healthy() {
    let instance = Instance::fake(vec![Entry::new("m", "always")]);
    let stranger = TcpListener::bind(instance.gate("m")).unwrap();
    let instance = instance.serve();
    let model =
        instance.wait_for("m", |model| model["state"] == "ready" && model["gate"]["problem"].is_string());
    let port = instance.models[0].port;
    let me = format!("(pid {})", std::process::id());
    let problem = model["gate"]["problem"].as_str().unwrap();
    assert!(problem.starts_with(&format!("port {port} is held by ")) && problem.ends_with(&me), "{problem}");
    assert_eq!(model["gate"]["listening"], serde_json::json!([]));
    let text = instance.expect(0, &["--color", "always", "status"]);
    assert!(text.contains("ready, not reachable") && !text.contains("\x1b[32m● ready"), "{text}");
    let doctor = ports(&instance);
    assert_eq!(doctor["state"], "fail", "{doctor}");
    assert!(doctor["fix"].as_str().unwrap().starts_with(&format!("kill {}", std::process::id())), "{doctor}");
    drop(stranger);
    instance.wait_for("m", |model| model["gate"]["problem"].is_null());
    let doctor = ports(&instance);
    assert_eq!(doctor["seen"], format!("{port} held by the running supervisor"));
}

fn ports(instance: &Instance) -> Value {
    let output = instance.run(&["doctor", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["checks"].as_array().unwrap().iter().find(|check| check["id"] == "ports").unwrap().clone()
}

/// Gates and router serve loopback while their address is missing; the ports still belong to the supervisor.
#[test]
fn the_doctor_never_has_the_supervisor_killed() {
    let instance = Instance::fake(vec![Entry::new("m", "manual")]);
    let router = free_port();
    let text = std::fs::read_to_string(instance.config()).unwrap();
    // An address for documentation (RFC 5737), which no machine has.
    let text = text.replace("host = \"127.0.0.1\"", "host = \"192.0.2.7\"\nallow_from = [\"192.0.2.0/24\"]")
        + &format!("\n[router]\nport = {router}\n");
    std::fs::write(instance.config(), text).unwrap();
    let instance = instance.serve();
    instance.wait_for("m", |model| model["gate"]["listening"] != serde_json::json!([]));
    let doctor = ports(&instance);
    assert_eq!(doctor["state"], "ok", "{doctor}");
    let seen = doctor["seen"].as_str().unwrap();
    assert_eq!(seen, format!("{}, {router} held by the running supervisor", instance.models[0].port));
}

#[test]
fn a_backend_that_lives_without_a_supervisor_is_shown_and_adopted() {
    let mut instance = Instance::fake(vec![Entry::new("m", "manual")]).serve();
    instance.expect(0, &["start", "m"]);
    let pid = instance.pid("m");
    instance.kill_supervisor();
    let status: Value = serde_json::from_str(&instance.expect(3, &["status", "--json"])).unwrap();
    let model = &status["models"][0];
    assert_eq!((model["state"].as_str(), model["pid"].as_i64()), (Some("unsupervised"), Some(pid.into())));
    assert!(model["hint"].as_str().unwrap().contains("mlxctl serve"), "{model}");
    assert_eq!(status["budget"]["models_bytes"], model["memory"]["estimate_bytes"]);
    let text = instance.expect(3, &["status"]);
    assert!(
        text.contains("1 backend is running without one") && !text.contains("this is the plan"),
        "{text}"
    );
    instance.serve_again();
    let adopted = instance.wait_state("m", "ready");
    assert_eq!((adopted["pid"].as_i64(), adopted["adopted"].as_bool()), (Some(pid.into()), Some(true)));
}

/// A start looks for programs to yield to, because nothing else does before a model is ready.
#[test]
fn a_start_is_refused_for_a_program_that_runs_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let game = folder.path().join("Civ5XP-trial");
    let sleep = ["/bin/sleep", "/usr/bin/sleep"].into_iter().find(|file| Path::new(file).exists()).unwrap();
    copy_program(&std::fs::canonicalize(sleep).unwrap(), &game);
    let instance = Instance::fake(vec![Entry::new("m", "manual")])
        .memory("yield = [\"Civ5XP-trial\"]\nyield_actions = [\"refuse_manual\"]\nyield_hold = \"1s\"")
        .serve();
    let mut playing = Command::new(&game).arg("600").stdout(Stdio::null()).spawn().unwrap();
    let refused = instance.run(&["start", "m"]);
    let status = instance.status();
    let text = instance.expect(0, &["status"]);
    playing.kill().unwrap();
    playing.wait().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(75), "{said}");
    assert!(said.contains("Civ5XP-trial is running, and the models yield to it"), "{said}");
    assert_eq!(status["supervisor"]["yielding_to"], serde_json::json!(["Civ5XP-trial"]));
    assert!(text.contains("yielding to Civ5XP-trial"), "{text}");
    // It is gone, which is noticed although no model is running.
    while instance.run(&["start", "m"]).status.code() != Some(0) {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// Runs a program in a terminal of its own, which is closed once the file exists; ends as the program does.
const TERMINAL: &str = "
import os, pty, select, signal, sys
close, out, program = sys.argv[1], sys.argv[2], sys.argv[3:]
pid, terminal = pty.fork()
if pid == 0:
    # As a terminal starts it, even if the tests run under nohup(1).
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.execvp(program[0], program)
with open(out, 'wb', 0) as file:
    while not os.path.exists(close):
        if select.select([terminal], [], [], 0.02)[0]:
            file.write(os.read(terminal, 4096))
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
";

#[test]
fn closing_the_terminal_of_a_supervisor_stops_everything() {
    let mut instance = Instance::fake(vec![Entry::new("m", "always")]);
    let (close, out) = (instance.root().join("close"), instance.root().join("out"));
    let (close_text, out_text) = (close.display().to_string(), out.display().to_string());
    instance.serve_within(&["python3", "-c", TERMINAL, &close_text, &out_text]);
    instance.wait_state("m", "ready");
    let backend = instance.pid("m");
    let said = std::fs::read_to_string(&out).unwrap();
    assert!(!said.contains("tracing") && !said.contains("ansi"), "{said}");
    assert!(said.contains(&format!("the gate of m listens at http://{}/v1", instance.gate("m"))), "{said}");
    std::fs::write(&close, "").unwrap();
    assert_eq!(instance.wait_for_end(), Some(0));
    assert!(!alive(backend));
}

// macOS has no setsid(1).
#[cfg(target_os = "linux")]
#[test]
fn without_a_terminal_a_hangup_reloads() {
    let mut instance = Instance::fake(vec![Entry::new("m", "manual")]);
    // setsid(1) becomes the program; the session that it starts has no terminal.
    instance.serve_within(&["setsid"]);
    crate::support::signal(instance.supervisor_pid(), nix::sys::signal::Signal::SIGHUP);
    instance.memory = "reserve = [{ name = \"macOS\", size = \"1GB\" }]".to_owned();
    instance.write_registry();
    crate::support::signal(instance.supervisor_pid(), nix::sys::signal::Signal::SIGHUP);
    instance.wait_for("m", |_| kinds(&instance).contains(&"reloaded".to_owned()));
}

/// The demo's reader leaves at the first output: nothing stays behind, and it is not a failure.
#[test]
fn a_demo_whose_reader_leaves_leaves_no_backend() {
    let home = tempfile::Builder::new().prefix("mlxd").tempdir().unwrap();
    let demo = home.path().join("mlxctl/demo");
    std::fs::create_dir_all(&demo).unwrap();
    std::os::unix::fs::symlink(venv(), demo.join("mlx_venv")).unwrap();
    for (arguments, read_some) in [(&["demo", "--keep"][..], true), (&["demo"], false)] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlxctl"));
        command.args(arguments).env("XDG_DATA_HOME", home.path()).stdin(Stdio::null());
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        if read_some {
            let mut first = [0];
            std::io::Read::read_exact(&mut &reader, &mut first).unwrap();
        }
        drop(reader);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("nothing is left running"), "{said}");
        let left = mlxctl::internals::host::system().find_by_argument(&demo.join("run").to_string_lossy());
        assert_eq!(left, []);
    }
}

#[test]
fn events_are_in_local_time_and_their_json_in_utc() {
    let instance = Instance::fake(vec![Entry::new("m", "manual")]);
    std::fs::create_dir_all(instance.root().join("state")).unwrap();
    let line = r#"{"seq":1,"at":"2026-02-08T22:30:00Z","model":"m","kind":"ready","text":"x"}"#;
    std::fs::write(instance.root().join("state/events.jsonl"), format!("{line}\n")).unwrap();
    let shown = |arguments: &[&str]| {
        // Two hours east of Greenwich (POSIX writes that as a minus).
        let output = instance.mlxctl(arguments).env("TZ", "XXX-2").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(&["events"]).starts_with("2026-02-09 00:30:00  m "), "{}", shown(&["events"]));
    assert!(shown(&["events", "--json"]).contains("\"at\":\"2026-02-08T22:30:00Z\""));
}

#[test]
fn an_unreadable_property_list_is_explained() {
    let instance = Instance::fake(vec![Entry::new("m", "manual")]);
    let odd = instance.root().join("odd.plist");
    std::fs::write(&odd, "no plist").unwrap();
    for (file, words) in
        [("/nope", "No such file or directory"), (odd.to_str().unwrap(), "is not a property list")]
    {
        let output = instance.run(&["plist", "--check", file]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && !said.contains('{') && !said.contains("Os "), "{said}");
    }
}

/// Every page that another one refers to exists: the release archive is filled by the same command.
#[test]
fn every_manual_page_that_is_named_is_written() {
    let instance = Instance::fake(vec![Entry::new("m", "manual")]);
    let folder = tempfile::tempdir().unwrap();
    instance.expect(0, &["man", "--all", folder.path().to_str().unwrap()]);
    let pages: Vec<PathBuf> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 20, "{pages:?}");
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap().replace('\\', "");
        for word in text.split_whitespace().filter(|word| word.starts_with("mlxctl") && word.ends_with("(1)"))
        {
            let named = folder.path().join(word.replace("(1)", ".1"));
            assert!(named.exists(), "{} names {word}", page.display());
        }
    }
    let package =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package")).unwrap();
    assert!(package.contains("man --all"));
}
