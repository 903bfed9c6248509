//! A supervisor that starts takes over what it finds: the same process, what was known about it, and what differs.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Entry, Instance, PATIENCE, alive, http};

const CHAT: &str = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":4}"#;

fn pair() -> Instance {
    let quick = "restart = { stable_after = \"1h\", backoff_min = \"10ms\", backoff_max = \"20ms\" }";
    Instance::fake(vec![Entry::new("a", "always").with(quick), Entry::new("b", "manual")]).serve()
}

fn ready_pair() -> (Instance, [i32; 2]) {
    let instance = pair();
    instance.wait_state("a", "ready");
    instance.expect(0, &["start", "b"]);
    let pids = [instance.pid("a"), instance.pid("b")];
    (instance, pids)
}

fn gone(pid: i32) {
    let began = Instant::now();
    while alive(pid) {
        assert!(began.elapsed() < PATIENCE, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_backend_whose_record_is_lost_is_found_by_its_arguments() {
    let (mut instance, pids) = ready_pair();
    instance.kill_supervisor();
    std::fs::remove_file(instance.root().join("run/a.live.json")).unwrap();
    std::fs::write(instance.root().join("run/b.live.json"), "{").unwrap();
    instance.serve_again();
    for name in ["a", "b"] {
        instance.wait_state(name, "ready");
    }
    assert_eq!([instance.pid("a"), instance.pid("b")], pids);
    // And the record exists again, for the next supervisor.
    instance.kill_supervisor();
    instance.serve_again();
    instance.wait_state("a", "ready");
    assert_eq!(instance.pid("a"), pids[0]);
    assert_eq!(instance.events().iter().filter(|event| event["kind"] == "record_lost").count(), 2);
}

#[test]
fn the_backend_of_a_removed_model_is_stopped_and_forgotten() {
    let (mut instance, pids) = ready_pair();
    instance.kill_supervisor();
    instance.models.truncate(1);
    instance.write_registry();
    instance.serve_again();
    gone(pids[1]);
    instance.wait_state("a", "ready");
    assert_eq!(instance.pid("a"), pids[0]);
    let began = Instant::now();
    let left = || {
        let files = std::fs::read_dir(instance.root().join("run")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("b.")).collect::<Vec<_>>()
    };
    while !left().is_empty() {
        assert!(began.elapsed() < PATIENCE, "{:?} are left", left());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_run_that_the_registry_would_start_differently_says_so_until_it_is_restarted() {
    let (mut instance, pids) = ready_pair();
    assert!(instance.model("a")["outdated"].is_null());
    instance.kill_supervisor();
    let registry = std::fs::read_to_string(instance.config()).unwrap();
    let changed = registry.replace("name = \"a\"", "name = \"a\"\nserver = { max_tokens = 77 }");
    std::fs::write(instance.config(), &changed).unwrap();
    instance.serve_again();
    let model = instance.wait_state("a", "ready");
    assert_eq!((&model["pid"], &model["outdated"]), (&pids[0].into(), &"--max-tokens unset → 77".into()));
    instance.expect(0, &["restart", "a"]);
    assert!(instance.model("a")["outdated"].is_null());
    // A reload finds it as well, and a value that is restored no longer differs.
    std::fs::write(instance.config(), &registry).unwrap();
    instance.expect(0, &["reload"]);
    assert_eq!(instance.model("a")["outdated"], "--max-tokens 77 → unset");
    std::fs::write(instance.config(), &changed).unwrap();
    instance.expect(0, &["reload"]);
    assert!(instance.model("a")["outdated"].is_null());
}

#[test]
fn uptime_restarts_and_counters_continue_and_what_a_person_stopped_stays_down() {
    let (mut instance, pids) = ready_pair();
    crate::support::signal(pids[0], nix::sys::signal::Signal::SIGKILL);
    instance.wait_for("a", |model| model["state"] == "ready" && model["restarts"] == 1);
    for _ in 0..3 {
        assert_eq!(http(instance.gate("a"), "POST", "/v1/chat/completions", CHAT).0, 200);
    }
    let before = instance.model("a");
    assert_eq!(before["traffic"]["requests"], 3);
    instance.expect(0, &["stop", "b"]);
    // Handed over, so that the counters are those of the last moment.
    let socket = instance.root().join("run/mlxctl.sock");
    assert!(crate::support::control(&socket, "POST", "/v1/handover").contains("202"));
    instance.wait_for_end();
    instance.serve_again();
    let after = instance.wait_state("a", "ready");
    for key in ["requests", "errors", "tokens"] {
        assert_eq!(after["traffic"][key], before["traffic"][key], "{key}");
    }
    assert_eq!((&after["pid"], &after["restarts"]), (&before["pid"], &Value::from(1)));
    assert!(after["uptime_seconds"].as_f64() >= before["uptime_seconds"].as_f64());
    assert_eq!(instance.model("b")["reason"], "stopped by hand");

    // An always-on model that a person stopped stays down until the supervisor is ended on purpose.
    instance.expect(0, &["stop", "a"]);
    instance.kill_supervisor();
    instance.serve_again();
    let down = instance.model("a");
    assert_eq!((&down["state"], &down["reason"]), (&"stopped".into(), &"stopped by hand".into()));
    assert_eq!(instance.end(), Some(0));
    instance.serve_again();
    instance.wait_state("a", "ready");
}

#[test]
fn the_real_server_is_adopted_again_and_again_and_loads_once() {
    let models = vec![Entry::new("a", "always"), Entry::new("b", "manual")];
    let mut instance = Instance::real(models).serve();
    instance.wait_state("a", "ready");
    instance.expect(0, &["start", "b"]);
    let pids = [instance.pid("a"), instance.pid("b")];
    let ask = |instance: &Instance, name| {
        let body = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":8,"temperature":0,"seed":1}"#;
        let answer: Value = serde_json::from_str(&crate::support::insist(instance.gate(name), body)).unwrap();
        answer["choices"][0]["message"].clone()
    };
    let before = ask(&instance, "b");
    let mut slowest = Duration::ZERO;
    for place in
        [None, Some("before stopped loading"), Some("after stopped loading"), Some("before loading ready")]
    {
        instance.kill_supervisor();
        if place.is_some() {
            // One that dies while it adopts.
            instance.serve_until(place);
            let began = Instant::now();
            while !instance.supervisor_gone() {
                assert!(began.elapsed() < PATIENCE, "{place:?} is not reached");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let began = Instant::now();
        instance.serve_again();
        for name in ["a", "b"] {
            instance.wait_state(name, "ready");
        }
        slowest = slowest.max(began.elapsed());
        assert_eq!([instance.pid("a"), instance.pid("b")], pids);
        assert_eq!(ask(&instance, "b"), before);
    }
    println!("ready again after {slowest:?} at most, process start included");
    let spawned = instance.events().iter().filter(|event| event["kind"] == "spawned").count();
    assert_eq!(spawned, 2, "each was loaded once");
}

#[test]
fn after_a_kill_both_models_are_ready_again_within_a_second_and_no_request_is_lost() {
    let (mut instance, pids) = ready_pair();
    let gates = [instance.gate("a"), instance.gate("b")];
    let stop = std::sync::atomic::AtomicBool::new(false);
    let answered = std::sync::atomic::AtomicU32::new(0);
    let mut fastest = Duration::MAX;
    std::thread::scope(|scope| {
        for client in 0..6 {
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    crate::support::insist(gates[client % 2], CHAT);
                    answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        for _ in 0..5 {
            instance.kill_supervisor();
            let began = Instant::now();
            instance.serve_again();
            for name in ["a", "b"] {
                instance.wait_state(name, "ready");
            }
            fastest = fastest.min(began.elapsed());
            assert_eq!([instance.pid("a"), instance.pid("b")], pids);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let answered = answered.into_inner();
    println!(
        "adopted within {fastest:?} (the best of 5, process start included); {answered} requests answered"
    );
    assert!(answered > 0);
    // The best of several, because the machine may be busy with something else.
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}

/// All processes with the launcher's arguments for a model, oldest first.
fn with_arguments(instance: &Instance, model: &str) -> Vec<mlxctl::internals::host::Marked> {
    let spec = instance.root().join(format!("run/{model}.json")).display().to_string();
    let mut found = mlxctl::internals::host::system().find_by_argument(&spec);
    found.sort_by_key(|marked| (marked.who.started, marked.who.pid));
    found
}

#[test]
fn what_a_backend_forked_is_neither_adopted_nor_stopped_in_its_place() {
    let mut instance = Instance::fake(vec![Entry::new("a", "manual").faults(&["forks"])]).serve();
    instance.expect(0, &["start", "a"]);
    let pid = instance.pid("a");
    assert_eq!(with_arguments(&instance, "a").len(), 3, "two children have its arguments");
    let uptime = |instance: &Instance| instance.model("a")["uptime_seconds"].as_f64().unwrap();
    for record in [true, false] {
        instance.kill_supervisor();
        if !record {
            std::fs::remove_file(instance.root().join("run/a.live.json")).unwrap();
        }
        std::thread::sleep(Duration::from_millis(1200));
        instance.serve_again();
        instance.wait_state("a", "ready");
        assert_eq!(instance.pid("a"), pid, "with a record: {record}");
        assert_eq!(with_arguments(&instance, "a").len(), 3, "with a record: {record}");
        assert!(uptime(&instance) >= 1.0, "counted from its own start, with a record: {record}");
    }

    // Left behind by a backend that died unwatched, they are stopped before another one starts.
    instance.kill_supervisor();
    crate::support::signal(pid, nix::sys::signal::Signal::SIGKILL);
    let began = Instant::now();
    while with_arguments(&instance, "a").len() > 2 {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    instance.serve_again();
    while !with_arguments(&instance, "a").is_empty() {
        assert!(began.elapsed() < PATIENCE, "{:?}", with_arguments(&instance, "a"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let model = instance.model("a");
    assert_eq!((&model["state"], &model["pid"]), (&"stopped".into(), &Value::Null));
}
