//! If the supervisor dies, the model stays; if files are damaged, the supervisor keeps running.

use nix::sys::signal::Signal;

use crate::support::{Entry, Instance, alive, signal};

fn pair() -> Instance {
    Instance::fake(vec![Entry::new("a", "always"), Entry::new("b", "manual")]).serve()
}

#[test]
fn models_survive_a_killed_supervisor_and_the_next_one_adopts_them() {
    let mut instance = pair();
    instance.wait_state("a", "ready");
    instance.expect(0, &["start", "b"]);
    let pids = (instance.pid("a"), instance.pid("b"));
    instance.kill_supervisor();
    instance.expect(3, &["status"]);
    assert!(alive(pids.0) && alive(pids.1));
    instance.serve_again();
    for name in ["a", "b"] {
        let model = instance.wait_state(name, "ready");
        assert_eq!(model["adopted"], true);
    }
    assert_eq!((instance.pid("a"), instance.pid("b")), pids);
    instance.expect(0, &["stop", "b"]);
    assert!(!alive(pids.1));
    signal(pids.0, Signal::SIGKILL);
    let back = instance.wait_for("a", |model| model["state"] == "ready" && model["pid"] != pids.0);
    assert_eq!(back["adopted"], false);
    assert_eq!(instance.end(), Some(0));
}

#[test]
fn a_backend_that_died_with_its_supervisor_is_restarted_and_a_stranger_with_its_pid_is_left_alone() {
    let mut instance = pair();
    instance.wait_state("a", "ready");
    let pid = instance.pid("a");
    instance.kill_supervisor();
    let record = instance.root().join("run/a.live.json");
    let text = std::fs::read_to_string(&record).unwrap();
    signal(pid, Signal::SIGKILL);
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    // The record, as if the stranger had been given the dead backend's pid.
    std::fs::write(&record, text.replace(&format!("\"pid\":{pid}"), &format!("\"pid\":{}", stranger.id())))
        .unwrap();
    instance.serve_again();
    let model = instance.wait_state("a", "ready");
    assert_eq!(model["adopted"], false);
    instance.expect(0, &["stop", "a"]);
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn damaged_files_are_set_aside_and_reported_and_a_backend_without_any_is_stopped_before_the_next_starts() {
    let mut instance = pair();
    instance.wait_state("a", "ready");
    let pid = instance.pid("a");
    instance.kill_supervisor();
    let root = instance.root();
    std::fs::write(root.join("run/a.live.json"), "{\"spec\":{\"sch").unwrap();
    std::fs::write(root.join("run/a.json"), "{\"schema\":1,").unwrap();
    std::fs::write(root.join("state/learned.json"), "{\"schema\":99}").unwrap();
    instance.serve_again();
    let model = instance.wait_for("a", |model| model["state"] == "ready");
    assert_ne!(model["pid"], pid);
    let order: Vec<_> = instance
        .events()
        .iter()
        .filter_map(|event| event["kind"].as_str().map(str::to_owned))
        .filter(|kind| kind == "stray_gone" || kind == "spawned")
        .collect();
    assert_eq!(order, ["spawned", "stray_gone", "spawned"]);
    assert!(!alive(pid), "nothing else would ever have stopped it");
    let kinds: Vec<_> =
        instance.events().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect();
    for kind in ["record_problem", "state_problem", "stray_stopped", "stray_gone"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} in {kinds:?}");
    }
}

#[test]
fn a_second_supervisor_refuses_and_says_who_has_the_instance() {
    let instance = pair();
    let output = instance.run(&["serve"]);
    assert_eq!(output.status.code(), Some(75));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("pid {}", instance.supervisor_pid())), "{said}");
}

#[test]
fn a_broken_registry_leaves_the_old_one_in_use_and_status_says_so() {
    let instance = pair();
    instance.wait_state("a", "ready");
    let (good, pid) = (std::fs::read_to_string(instance.config()).unwrap(), instance.pid("a"));
    std::fs::write(instance.config(), format!("{good}\nbroken = [")).unwrap();
    instance.expect(2, &["reload"]);
    let status = instance.status();
    assert!(status["supervisor"]["config_problem"].as_str().unwrap().contains("models.toml"), "{status}");
    assert_eq!(instance.pid("a"), pid);
    std::fs::write(instance.config(), &good).unwrap();
    instance.expect(0, &["reload"]);
    assert!(instance.status()["supervisor"]["config_problem"].is_null());
    assert_eq!(instance.pid("a"), pid);
}

#[test]
fn a_reload_touches_only_what_changed() {
    let mut instance = pair();
    instance.wait_state("a", "ready");
    instance.expect(0, &["start", "b"]);
    let pids = (instance.pid("a"), instance.pid("b"));
    instance.models[1] = Entry::new("c", "always");
    instance.write_registry();
    let planned = instance.expect(0, &["reload", "--dry-run"]);
    assert!(planned.contains("added") && planned.contains("removed"), "{planned}");
    assert_eq!(instance.model("b")["state"], "ready");
    instance.expect(0, &["reload"]);
    instance.wait_state("c", "ready");
    assert_eq!(instance.pid("a"), pids.0);
    let began = std::time::Instant::now();
    while alive(pids.1) {
        assert!(began.elapsed() < crate::support::PATIENCE, "the removed model is stopped");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    instance.expect(4, &["start", "b"]);
}

#[test]
fn commands_of_many_clients_at_once_are_all_answered() {
    let instance = pair();
    instance.wait_state("a", "ready");
    std::thread::scope(|scope| {
        for client in 0..12 {
            let instance = &instance;
            scope.spawn(move || {
                for round in 0..3 {
                    let args: &[&str] = match (client + round) % 4 {
                        0 => &["start", "b"],
                        1 => &["stop", "b"],
                        2 => &["restart", "b"],
                        _ => &["status", "--json"],
                    };
                    let code = instance.run(args).status.code();
                    // 75: another client's command overrode it.
                    assert!(matches!(code, Some(0 | 75)), "{args:?}: {code:?}");
                }
            });
        }
    });
    instance.expect(0, &["stop", "b"]);
    assert_eq!(instance.model("b")["state"], "stopped");
}
