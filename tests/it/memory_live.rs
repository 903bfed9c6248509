//! Memory in use: refused with its terms, held to its ceiling, released for a program that comes first.

use std::path::Path;
use std::process::{Child, Command};

use crate::support::{Entry, Instance, alive, copy_program, http};

/// A program of that name that does nothing.
fn program(folder: &Path, name: &str) -> Child {
    let path = folder.join(name);
    copy_program(Path::new("/bin/sleep"), &path);
    Command::new(&path).arg("120").spawn().unwrap()
}

#[test]
fn a_start_that_does_not_fit_is_refused_with_every_term_and_force_overrides_it_visibly() {
    let folder = tempfile::tempdir().unwrap();
    let mut hog = program(folder.path(), "mlxctl-hog");
    let reserve = "reserve = [{ name = \"everything\", size = \"900TB\", while_running = [\"mlxctl-hog\"] }]";
    let instance = Instance::fake(vec![Entry::new("m", "manual")]).memory(reserve).serve();
    let output = instance.run(&["start", "m"]);
    assert_eq!(output.status.code(), Some(75));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("everything, reserved") && said.contains("900 TB"), "{said}");
    assert_eq!(instance.model("m")["state"], "stopped");
    instance.expect(0, &["start", "m", "--force"]);
    assert!(instance.events().iter().any(|event| event["kind"] == "forced"));
    let status = instance.status();
    assert!(status["budget"]["free_bytes"].as_i64().unwrap() < 0, "and it stays visible");
    let memory = &instance.model("m")["memory"];
    assert_eq!(memory["forced"], true);
    assert!(memory["overdraft_bytes"].as_u64().unwrap() > 800_000_000_000_000, "{memory}");
    hog.kill().unwrap();
    hog.wait().unwrap();
    instance.expect(0, &["stop", "m"]);
    instance.expect(0, &["start", "m"]);
}

#[test]
fn an_estimate_takes_running_models_into_account_and_says_what_it_counted() {
    let instance = Instance::fake(vec![Entry::new("m", "manual"), Entry::new("n", "manual")]).serve();
    instance.expect(0, &["start", "m"]);
    let json = |name| -> serde_json::Value {
        serde_json::from_str(&instance.expect(0, &["estimate", name, "--json"])).unwrap()
    };
    let granted = instance.model("m")["memory"]["estimate_bytes"].clone();
    let other = json("n");
    assert_eq!(
        (&other["counted"]["supervisor"], &other["counted"]["models"]["m"]["bytes"]),
        (&true.into(), &granted)
    );
    let own = json("m");
    assert_eq!(own["counted"]["running"]["bytes"], granted);
    assert!(instance.expect(0, &["estimate", "n"]).contains("counted: m ("));
    let alone = instance.expect(0, &["estimate", "n", "--memory", "128GB"]);
    assert!(alone.contains("a machine of 128 GB on which no other model runs"), "{alone}");
}

#[test]
fn a_backend_that_grows_past_its_ceiling_is_trimmed_then_recycled_while_idle() {
    let entry = Entry::new("m", "always")
        .with("health = { interval = \"300ms\" }\nmemory = { ceiling = \"1100MB\" }")
        .faults(&["grow=400000000"]);
    let instance = Instance::fake(vec![entry]).serve();
    instance.wait_state("m", "ready");
    let pid = instance.pid("m");
    instance.wait_for("m", |model| model["pid"].is_i64() && model["pid"] != pid);
    let kinds: Vec<_> =
        instance.events().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect();
    let first = |kind: &str| {
        kinds.iter().position(|found| found == kind).unwrap_or_else(|| panic!("{kind}: {kinds:?}"))
    };
    assert!(first("over_ceiling") < first("unhealthy"));
    assert!(!alive(pid));
}

#[test]
fn manual_models_make_room_for_the_program_they_yield_to_and_always_on_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let often = "health = { interval = \"200ms\" }";
    let instance = Instance::fake(vec![Entry::new("a", "always").with(often), Entry::new("m", "manual").with(often)])
        .memory("yield = [\"mlxctl-game\"]\nyield_actions = [\"refuse_manual\", \"stop_manual\"]\nyield_hold = \"300ms\"")
        .serve();
    instance.wait_state("a", "ready");
    instance.expect(0, &["start", "m"]);
    let mut playing = program(folder.path(), "mlxctl-game");
    let stopped = instance.wait_state("m", "stopped");
    assert!(stopped["reason"].as_str().unwrap().contains("memory"), "{stopped}");
    let refused = instance.run(&["start", "m"]);
    assert_eq!(refused.status.code(), Some(75));
    let estimate = instance.expect(0, &["estimate", "m"]);
    let why = "mlxctl-game is running, and the models yield to it";
    assert!(String::from_utf8_lossy(&refused.stderr).contains(why), "{refused:?}");
    assert!(estimate.contains(&format!("would be refused now: {why}")), "what start says: {estimate}");
    assert!(instance.expect(0, &["estimate", "a"]).contains("would be granted now"));
    assert_eq!(instance.model("a")["state"], "ready");
    playing.kill().unwrap();
    playing.wait().unwrap();
    let began = std::time::Instant::now();
    while instance.run(&["start", "m"]).status.code() != Some(0) {
        assert!(began.elapsed() < crate::support::PATIENCE, "it may start again");
    }
}

#[test]
fn the_limits_of_the_estimate_are_the_backends_own_and_the_gates() {
    let entry = Entry::new("m", "manual")
        .with("memory = { context = 2048, kv_limit = \"100MB\", cache_limit = \"50MB\" }");
    let instance = Instance::fake(vec![entry]).serve();
    // Before the run, because the supervisor learns from it.
    let estimate: serde_json::Value =
        serde_json::from_str(&instance.expect(0, &["estimate", "m", "--json"])).unwrap();
    instance.expect(0, &["start", "m"]);
    let record = std::fs::read_to_string(instance.root().join("run/m.live.json")).unwrap();
    let spec = &serde_json::from_str::<serde_json::Value>(&record).unwrap()["spec"];
    assert_eq!(spec["prompt_cache_bytes"], 100_000_000);
    assert_eq!(spec["cache_limit"], 50_000_000);
    assert_eq!(spec["reserved"], estimate["reserve_bytes"]);
    assert_eq!(spec["context"], 2048);
    let long = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(2048 * 128));
    assert_eq!(http(instance.gate("m"), "POST", "/v1/chat/completions", &long).0, 400);
}

#[test]
#[cfg(target_os = "linux")] // macOS charges nothing for such pages
fn a_supervisor_at_rest_gives_back_what_it_needed_to_get_there() {
    let instance = Instance::fake(vec![Entry::new("m", "manual")]).serve();
    instance.expect(0, &["start", "m"]);
    let pid = instance.supervisor_pid();
    // File pages, mostly the program's own, in kB.
    let resident = || -> u64 {
        crate::support::linux::status(pid, "RssFile").strip_suffix(" kB").unwrap().parse().unwrap()
    };
    let before = resident();
    let began = std::time::Instant::now();
    // What an idle supervisor needs is read back at once, above all the large code of a debug build; by itself, nothing
    // would ever be released.
    while resident() + 1024 > before {
        assert!(began.elapsed() < crate::support::PATIENCE, "{before} kB, and still {} kB", resident());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(instance.model("m")["state"], "ready", "and it keeps running");
}
