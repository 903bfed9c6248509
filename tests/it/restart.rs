//! A backend that dies is replaced at once, and the cost of supervising does not grow with the deaths.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::linux::{descriptors, status};
use crate::support::{Entry, Instance, PATIENCE, signal};

/// Runs count as stable almost at once; an unstable one would stay down long enough to be noticed.
const STABLE_SOON: &str =
    "restart = { stable_after = \"1ms\", backoff_min = \"10m\", backoff_max = \"10m\", max_crashes = 3 }";

/// A number of a process's status.
fn counter(pid: i32, name: &str) -> u64 {
    status(pid, name).parse().unwrap()
}

/// The number of descriptors that stay open: the connection of the last command may still be closing.
fn lasting_descriptors(pid: i32) -> usize {
    let counts = (0..10).map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        descriptors(pid)
    });
    counts.min().unwrap()
}

/// Waits until a process has as many descriptors as before: connections of commands are closed a moment later.
fn descriptors_return_to(pid: i32, before: usize) {
    let began = Instant::now();
    while descriptors(pid) != before {
        assert!(began.elapsed() < PATIENCE, "{} descriptors, before {before}", descriptors(pid));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the model has been ready for longer than makes its run stable.
fn stable(instance: &Instance, name: &str) -> Value {
    instance.wait_for(name, |model| {
        model["state"] == "ready" && model["health"]["last_probe_seconds"].as_f64() > Some(0.2)
    })
}

#[test]
fn twenty_deaths_of_an_always_on_model_are_each_followed_by_a_start_without_a_wait() {
    let instance = Instance::fake(vec![Entry::new("m", "always").with(STABLE_SOON)]).serve();
    let supervisor = instance.supervisor_pid();
    let mut pid = stable(&instance, "m")["pid"].as_i64().unwrap();
    let before = lasting_descriptors(supervisor);
    for death in 1..=20 {
        signal(i32::try_from(pid).unwrap(), Signal::SIGKILL);
        instance.wait_for("m", |model| model["restarts"] == death);
        let back = stable(&instance, "m");
        assert_ne!(back["pid"], pid);
        assert_eq!(back["restarts"], death);
        pid = back["pid"].as_i64().unwrap();
    }
    let kinds: Vec<String> = instance
        .events()
        .iter()
        .filter(|event| event["model"] == "m")
        .map(|event| event["kind"].as_str().unwrap().to_owned())
        .filter(|kind| !kind.starts_with("gate"))
        .collect();
    let mut wanted = vec!["spawned", "ready"];
    wanted.extend(["crashed", "spawned", "ready"].repeat(20));
    assert_eq!(kinds, wanted, "there are no pauses in between");
    descriptors_return_to(supervisor, before);
    assert_eq!(counter(supervisor, "Threads"), 1);
}

#[test]
fn fifty_failed_starts_leave_no_descriptor_behind_and_no_thread() {
    let often = "restart = { backoff_min = \"1ms\", backoff_max = \"1ms\", max_crashes = 10000 }";
    let instance = Instance::fake(vec![Entry::new("m", "always").with(often).faults(&["exit=3"])]).serve();
    let supervisor = instance.supervisor_pid();
    instance.wait_for("m", |model| model["restarts"].as_u64() >= Some(2));
    instance.expect(0, &["stop", "m"]);
    let before = lasting_descriptors(supervisor);
    instance.expect(0, &["start", "m", "--no-wait"]);
    instance.wait_for("m", |model| model["restarts"].as_u64() >= Some(50));
    instance.expect(0, &["stop", "m"]);
    descriptors_return_to(supervisor, before);
    assert_eq!(counter(supervisor, "Threads"), 1);
}

#[test]
fn an_idle_supervisor_sleeps() {
    let rare = "health = { interval = \"10m\" }";
    let models = ["a", "b"].map(|name| Entry::new(name, "always").with(rare)).into();
    let instance = Instance::fake(models).serve();
    let supervisor = instance.supervisor_pid();
    instance.wait_state("a", "ready");
    instance.wait_state("b", "ready");
    let woken = || counter(supervisor, "voluntary_ctxt_switches");
    // The connection of the last command has to be closed first.
    std::thread::sleep(Duration::from_millis(200));
    let before = woken();
    std::thread::sleep(Duration::from_secs(2));
    let times = woken() - before;
    assert!(times <= 5, "woken {times} times in two idle seconds");
}
