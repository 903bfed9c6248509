//! The main purpose, with the real `mlx_lm.server` and the built-in tiny model.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::real;
use crate::support::{Entry, Instance, alive, http, signal};

fn pair() -> Instance {
    let quick = "restart = { stable_after = \"100ms\" }";
    Instance::real(vec![Entry::new("tiny", "always").with(quick), Entry::new("other", "manual")]).serve()
}

#[test]
fn always_on_models_start_manual_ones_wait_for_a_command_and_stop_is_proven() {
    let mut instance = pair();
    instance.wait_state("tiny", "ready");
    assert_eq!(instance.model("other")["state"], "stopped");
    let before = instance.pid("tiny");

    instance.expect(0, &["start", "other"]);
    assert_eq!(instance.model("other")["state"], "ready");
    instance.expect(0, &["start", "other"]);
    let other = instance.pid("other");
    let (status, body) = http(
        instance.gate("other"),
        "POST",
        "/v1/chat/completions",
        r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":4}"#,
    );
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"completion_tokens\""), "{body}");

    instance.expect(0, &["restart", "other"]);
    let again = instance.pid("other");
    assert_ne!(again, other);
    assert!(!alive(other));

    let said = instance.expect(0, &["stop", "other"]);
    assert!(said.contains("process group is gone"), "{said}");
    assert!(!alive(again));
    assert_eq!(instance.model("other")["state"], "stopped");
    assert_eq!(http(instance.gate("other"), "GET", "/health", "").0, 503);
    instance.expect(0, &["stop", "other"]);

    assert_eq!(instance.pid("tiny"), before, "the other model was not touched");
    assert_eq!(instance.end(), Some(0));
    assert!(!alive(before), "nothing is left");
}

#[test]
fn a_killed_always_on_backend_restarts_and_a_killed_manual_one_stays_down() {
    let instance = pair();
    instance.wait_state("tiny", "ready");
    instance.expect(0, &["start", "other"]);
    let (tiny, other) = (instance.pid("tiny"), instance.pid("other"));
    signal(other, Signal::SIGKILL);
    signal(tiny, Signal::SIGKILL);
    let back = instance.wait_for("tiny", |model| model["state"] == "ready" && model["pid"] != tiny);
    assert_eq!(back["restarts"], 1);
    let down = instance.wait_state("other", "failed");
    assert!(down["reason"].as_str().unwrap().contains("SIGKILL"), "{down}");
    assert_eq!(http(instance.gate("other"), "GET", "/v1/models", "").0, 503);
    assert_eq!(instance.model("other")["state"], "failed");
}

#[test]
fn an_idle_manual_model_stops_by_itself_and_stays_down() {
    let idle = Entry::new("idle", "manual").with("stop = { idle = \"1s\" }");
    let instance =
        Instance::fake(vec![idle, Entry::new("lent", "manual"), Entry::new("tiny", "always")]).serve();
    instance.expect(0, &["start", "idle"]);
    instance.expect(0, &["start", "lent", "--for", "1s"]);
    let down = instance.wait_state("idle", "stopped");
    assert_eq!(down["reason"], "idle for 1.0 s (stop.idle)", "{down}");
    let down = instance.wait_state("lent", "stopped");
    assert_eq!(down["reason"], "its time of 1.0 s is over", "{down}");
    for name in ["idle", "lent"] {
        let told = |kind: &str| {
            instance.events().iter().any(|event| event["kind"] == kind && event["model"] == name)
        };
        assert!(told("stops_soon") && told("stopped") && !told("failed"), "{name}");
    }
    instance.wait_state("tiny", "ready");
    instance.expect(2, &["start", "lent", "--for", "0s"]);
    let refused = instance.run(&["start", "tiny", "--for", "1h"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("always-on"), "{refused:?}");
}

/// A client that has left does not keep a model up, however long its backend works on the answer.
#[test]
fn a_model_that_works_for_a_client_that_left_stops_by_itself() {
    let entry = Entry::new("m", "manual")
        .with("stop = { idle = \"30s\", drain = \"1s\", term = \"1s\" }")
        .with("health = { interval = \"1s\", timeout = \"2m\", hang_after = \"1h\" }");
    let instance = Instance::real(vec![entry]).serve();
    instance.expect(0, &["start", "m"]);
    let mut client = std::net::TcpStream::connect(instance.gate("m")).unwrap();
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let body = json!({"messages": messages, "max_tokens": 4000, "logit_bias": real::endless()}).to_string();
    let length = body.len();
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    std::io::Write::write_all(&mut client, (head + &body).as_bytes()).unwrap();
    instance.wait_for("m", |model| model["traffic"]["in_flight"] == 1);
    signal(instance.pid("m"), Signal::SIGSTOP);
    drop(client);
    let seen = instance.wait_for("m", |model| !model["idle_seconds"].is_null());
    assert_eq!(seen["traffic"]["in_flight"], 1, "the backend has not ended it: {seen}");
    let seen = instance.wait_state("m", "stopped");
    assert!(seen["reason"].as_str().unwrap().starts_with("idle for 30s"), "{seen}");
}
