//! Every known way in which `mlx_lm.server` ends, or becomes useless although its process lives: detected, named, and
//! recovered from. With the real server where that can be provoked, otherwise with the stand-in.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Entry, Instance, PATIENCE, alive, child_of, signal};

const QUICK: &str =
    "restart = { stable_after = \"100ms\", backoff_min = \"100ms\", backoff_max = \"200ms\" }";

fn fake(faults: &[&str]) -> Instance {
    Instance::fake(vec![Entry::new("m", "always").with(QUICK).faults(faults)]).serve()
}

/// The first event of a kind, once there is one.
fn event(instance: &Instance, kind: &str) -> Value {
    let began = Instant::now();
    loop {
        if let Some(event) = instance.events().into_iter().find(|event| event["kind"] == kind) {
            return event;
        }
        assert!(began.elapsed() < PATIENCE, "no {kind}: {:#?}", instance.events());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(event: &Value) -> &str {
    event["text"].as_str().unwrap()
}

/// A request to the backend itself, bypassing the gate, which would never let it through.
fn past_the_gate(instance: &Instance, name: &str, body: &str) {
    let record = std::fs::read_to_string(instance.root().join(format!("run/{name}.live.json"))).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    let secret = record["spec"]["secret"].as_str().unwrap();
    let address = instance.model(name)["backend_address"].as_str().unwrap().to_owned();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(
        &mut stream,
        format!(
            "POST /v1/chat/completions HTTP/1.0\r\nx-mlxctl-secret: {secret}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    )
    .unwrap();
    // The answer, if any, does not matter.
    let _ = std::io::Read::read(&mut stream, &mut [0; 512]);
}

#[test]
fn a_loading_backend_is_not_ready_although_it_listens_and_answers() {
    let instance = fake(&["load=2"]);
    let model = instance.wait_for("m", |model| model["health"]["listening"] == true);
    assert_eq!(model["state"], "loading");
    assert_eq!(model["health"]["answering"], false);
    assert_eq!(crate::support::http(instance.gate("m"), "GET", "/health", "").0, 503);
    instance.wait_state("m", "ready");
    assert_eq!(crate::support::http(instance.gate("m"), "GET", "/health", "").0, 200);
}

#[test]
fn a_model_whose_files_cannot_be_loaded_is_named_and_retried_later() {
    // The stand-in's model: good enough for the estimate, but not for the real server, because it has no tokenizer.
    let instance = Instance::real_with_broken_model(vec![Entry::new("m", "always").with(QUICK)]).serve();
    let found = event(&instance, "unhealthy");
    assert!(!text(&found).is_empty());
    let down = instance.wait_state("m", "backoff");
    assert!(down["next_start_seconds"].is_number() && down["reason"].is_string(), "{down}");
}

#[test]
fn a_missing_model_is_reported_before_anything_is_started() {
    let instance = Instance::fake(vec![Entry::new("m", "manual")]).serve();
    std::fs::remove_file(instance.root().join("model/model.safetensors")).unwrap();
    let output = instance.run(&["start", "m"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("safetensors"), "{said}");
    assert!(instance.events().iter().all(|event| event["kind"] != "spawned"));
}

#[test]
fn a_dead_generation_thread_in_a_live_process_is_detected_and_replaced() {
    let instance = Instance::real(vec![Entry::new("m", "always").with(QUICK)]).serve();
    instance.wait_state("m", "ready");
    let pid = instance.pid("m");
    past_the_gate(&instance, "m", r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":3,"stop":5}"#);
    let found = event(&instance, "unhealthy");
    assert!(text(&found).starts_with("generation thread died"), "{found}");
    instance.wait_for("m", |model| model["state"] == "ready" && model["pid"] != pid);
    assert!(!alive(pid));
}

#[test]
fn a_generation_thread_out_of_metal_buffers_is_named() {
    let instance = fake(&["thread-dies-at=2"]);
    instance.wait_state("m", "ready");
    past_the_gate(&instance, "m", r#"{"messages":[],"max_tokens":5}"#);
    let found = event(&instance, "unhealthy");
    assert!(text(&found).contains("Resource limit (499000)"), "{found}");
    instance.wait_state("m", "ready");
}

#[test]
fn a_load_that_fails_is_named_with_its_line_and_a_hint() {
    let instance = fake(&["load-fails=Unable to allocate 40 GB: out of memory"]);
    let found = event(&instance, "unhealthy");
    assert!(text(&found).contains("out of memory"), "{found}");
    let down = instance.wait_state("m", "backoff");
    assert!(down["hint"].as_str().unwrap().contains("memory"), "{down}");
}

/// Its health checks are ten minutes apart, so whatever is found earlier was reported on the link.
const RARELY: &str = "health = { interval = \"10m\" }";

#[test]
fn a_backend_that_loses_its_listener_reports_it_and_is_replaced() {
    let instance =
        Instance::fake(vec![Entry::new("m", "always").with(QUICK).with(RARELY).faults(&["lose-listener=3"])])
            .serve();
    instance.wait_state("m", "ready");
    let pid = instance.pid("m");
    let found = event(&instance, "unhealthy");
    assert!(text(&found).starts_with("it no longer listens on its port"), "{found}");
    instance.wait_for("m", |model| model["pid"] != pid && model["state"] == "ready");
    assert!(!alive(pid));
}

#[test]
fn a_refused_request_triggers_a_health_check() {
    // The listener is lost below Python's own sockets, where the launcher cannot see it.
    let instance = Instance::fake(vec![
        Entry::new("m", "always").with(QUICK).with(RARELY).faults(&["lose-descriptor=3"]),
    ])
    .serve();
    instance.wait_state("m", "ready");
    let pid = instance.pid("m");
    let address: std::net::SocketAddr =
        instance.model("m")["backend_address"].as_str().unwrap().parse().unwrap();
    let began = Instant::now();
    while std::net::TcpStream::connect(address).is_ok() {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    let body = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":2}"#;
    assert_eq!(crate::support::http(instance.gate("m"), "POST", "/v1/chat/completions", body).0, 200);
    let found = event(&instance, "unhealthy");
    assert!(text(&found).starts_with("it no longer listens on its port"), "{found}");
    assert_ne!(instance.pid("m"), pid, "the next one answered");
}

#[test]
fn another_process_on_the_port_is_recognised_whatever_it_answers() {
    for answer in ["200", "403", "503", "404", "nothing", "garbage"] {
        let fault = format!("stranger={answer}");
        let often = "health = { interval = \"200ms\", timeout = \"300ms\", hang_after = \"20s\" }";
        let instance =
            Instance::fake(vec![Entry::new("m", "always").with(QUICK).with(often).faults(&[&fault])]).serve();
        let found = event(&instance, "unhealthy");
        assert!(text(&found).starts_with("another process answers on its port"), "{answer}: {found}");
    }
}

#[test]
fn a_backend_that_never_listens_is_given_up_after_its_load_time() {
    let instance = Instance::fake(vec![
        Entry::new("m", "manual").with("health = { load_timeout = \"1s\" }").faults(&["no-listener"]),
    ])
    .serve();
    instance.expect(1, &["start", "m"]);
    let down = instance.wait_state("m", "failed");
    assert!(down["reason"].as_str().unwrap().contains("no token within"), "{down}");
}

#[test]
fn a_hang_is_detected_in_time_and_the_backend_is_replaced() {
    let times = "health = { interval = \"200ms\", timeout = \"200ms\", hang_after = \"1s\" }";
    let instance = Instance::real(vec![Entry::new("m", "always").with(QUICK).with(times)]).serve();
    instance.wait_state("m", "ready");
    let pid = instance.pid("m");
    signal(pid, Signal::SIGSTOP);
    let found = event(&instance, "unhealthy");
    assert!(text(&found).starts_with("hung: no progress"), "{found}");
    // SIGTERM stays pending in a stopped process; once continued, it ends.
    signal(pid, Signal::SIGCONT);
    instance.wait_for("m", |model| model["state"] == "ready" && model["pid"] != pid);
}

#[test]
fn a_stuck_generation_is_detected_although_health_answers() {
    let times = "health = { interval = \"200ms\", timeout = \"200ms\", hang_after = \"1s\" }\nstop = { term = \"1s\" }";
    let instance =
        Instance::fake(vec![Entry::new("m", "always").with(QUICK).with(times).faults(&["hang-at=3"])])
            .serve();
    instance.wait_state("m", "ready");
    let pid = instance.pid("m");
    let gate = instance.gate("m");
    let asked = std::thread::spawn(move || {
        crate::support::http(
            gate,
            "POST",
            "/v1/chat/completions",
            r#"{"messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":9}"#,
        )
    });
    let found = event(&instance, "unhealthy");
    assert!(text(&found).contains("1 request in flight"), "{found}");
    let (_, body) = asked.join().unwrap();
    assert!(body.contains("error"), "the client gets an error: {body}");
    instance.wait_for("m", |model| model["state"] == "ready" && model["pid"] != pid);
}

#[test]
fn a_backend_that_ignores_sigterm_is_killed_in_time_with_its_grandchild() {
    let instance = Instance::fake(vec![
        Entry::new("m", "manual").with("stop = { term = \"500ms\" }").faults(&["ignore-term", "grandchild"]),
    ])
    .serve();
    instance.expect(0, &["start", "m"]);
    let pid = instance.pid("m");
    let child = child_of(pid).unwrap();
    assert!(alive(child));
    instance.expect(0, &["stop", "m"]);
    assert!(!alive(pid) && !alive(child));
}

#[test]
fn a_backend_that_ends_at_once_backs_off_longer_each_time_and_quotes_its_last_line() {
    let instance = fake(&["exit=3"]);
    let down = instance.wait_for("m", |model| model["state"] == "backoff");
    let reason = down["reason"].as_str().unwrap();
    assert!(reason.contains("ended with code 3") && reason.contains("told to end"), "{reason}");
    let quarantined = event(&instance, "quarantine");
    assert!(text(&quarantined).contains("failed too often"), "{quarantined}");
    let spawned = instance.events().iter().filter(|event| event["kind"] == "spawned").count();
    assert_eq!(spawned, 5, "and then it is left alone");
}
