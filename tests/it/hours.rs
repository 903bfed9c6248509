//! An always-on model that sleeps outside its hours, with the real server. `TZ` decides what its supervisor takes for
//! the local time.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Entry, Instance, http};

/// A time zone in which it is this hour and minute now (in POSIX, offsets are positive west of Greenwich).
fn zone(hour: u64, minute: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let west = (now % 86_400 + 86_400 - (hour * 60 + minute) * 60) % 86_400;
    format!("XXX{}:{:02}:{:02}", west / 3600, west / 60 % 60, west % 60)
}

fn ask(instance: &Instance) -> (u16, String) {
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":4}"#;
    http(instance.gate("m"), "POST", "/v1/chat/completions", body)
}

fn with_hours(port: u16, hours: &str) -> Entry {
    let mut entry = Entry::new("m", "always").with(&format!("hours = {hours}"));
    entry.port = port;
    entry
}

#[test]
fn a_model_sleeps_outside_its_hours_and_is_up_within_them() {
    let mut instance = Instance::real(vec![Entry::new("m", "always").with("hours = \"08:00-23:30\"")]);
    let port = instance.models[0].port;
    // At night: it does not start with the supervisor.
    instance.env("TZ", &zone(3, 0));
    let mut instance = instance.serve();
    let seen = instance.model("m");
    assert_eq!((&seen["state"], &seen["asleep_until"]), (&"stopped".into(), &"08:00".into()), "{seen}");
    let (status, answer) = ask(&instance);
    assert!(status == 503 && answer.contains("model_asleep") && answer.contains("until 08:00"), "{answer}");
    assert!(instance.expect(0, &["status"]).contains("asleep until 08:00"));
    instance.expect(0, &["check"]);

    // A person starts it, and the next supervisor knows.
    instance.expect(0, &["start", "m"]);
    assert_eq!(ask(&instance).0, 200);
    let pid = instance.pid("m");
    instance.kill_supervisor();
    instance.serve_again();
    instance.wait_state("m", "ready");
    assert_eq!(instance.pid("m"), pid, "it stays up");

    // Its hours begin, and then they end: by changing the registry, because a test cannot set the clock.
    instance.models = vec![with_hours(port, "[\"01:00-13:00\", \"20:00-02:00\"]")];
    instance.write_registry();
    instance.expect(0, &["reload"]);
    assert_eq!(instance.model("m")["state"], "ready");
    instance.models = vec![with_hours(port, "\"20:00-02:00\"")];
    instance.write_registry();
    instance.expect(0, &["reload"]);
    let seen = instance.wait_state("m", "stopped");
    assert_eq!((&seen["asleep_until"], &seen["restarts"]), (&"20:00".into(), &0.into()), "{seen}");
    instance.models = vec![with_hours(port, "\"02:00-20:00\"")];
    instance.write_registry();
    instance.expect(0, &["reload"]);
    instance.wait_state("m", "ready");
    assert_eq!(ask(&instance).0, 200);
    let failures = ["crashed", "failed", "quarantine", "backoff"];
    let events = instance.events();
    assert!(events.iter().all(|event| !failures.contains(&event["kind"].as_str().unwrap())), "{events:?}");
}

/// The supervisor's own clock does it, within seconds of the full minute.
#[test]
fn a_model_wakes_up_when_its_hours_begin() {
    let mut instance = Instance::real(vec![Entry::new("m", "always").with("hours = \"08:01-23:30\"")]);
    instance.env("TZ", &zone(8, 0));
    let instance = instance.serve();
    instance.wait_state("m", "ready");
    assert_eq!(ask(&instance).0, 200);
}
