//! One address for all models in a whole supervisor: the real server and the tiny model, twice.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Entry, Instance, PATIENCE, control, free_port, http, insist, try_http};

fn router(port: u16) -> String {
    format!("[router]\nport = {port}")
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn chat(model: &str, more: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hi"}}],"max_tokens":4{more}}}"#)
}

fn wait(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect(at(port)).is_ok()
}

fn states(port: u16) -> Value {
    let (_, text) = http(at(port), "GET", "/health", "");
    serde_json::from_str::<Value>(&text).unwrap()["models"].clone()
}

#[test]
fn two_real_models_answer_at_one_address() {
    let port = free_port();
    let first = Entry::new("32b", "always").with("aliases = [\"reasoning\"]");
    let instance = Instance::real(vec![first, Entry::new("70b", "manual").with(&router(port))]).serve();
    instance.wait_state("32b", "ready");
    wait("the router", || listens(port));
    assert_eq!(states(port), serde_json::json!({ "32b": "ready", "70b": "offline" }));
    let ask = |model: &str, more: &str| http(at(port), "POST", "/v1/chat/completions", &chat(model, more));
    let (status, text) = ask("reasoning", "");
    assert_eq!(status, 200, "{text}");
    let (status, text) = ask("32b", ",\"stream\":true");
    assert!(status == 200 && text.contains("data: [DONE]"), "{status} {text}");
    let (status, text) = ask("70b", "");
    assert!(status == 503 && text.contains("\"state\":\"offline\""), "nothing starts a manual model: {text}");

    instance.expect(0, &["start", "70b"]);
    assert_eq!(states(port), serde_json::json!({ "32b": "ready", "70b": "ready" }));
    assert_eq!(ask("70b", "").0, 200);
    assert_eq!(instance.model("32b")["traffic"]["requests"], 2);
    assert_eq!(instance.model("70b")["traffic"]["requests"], 2);
    let status = instance.status();
    assert_eq!(
        status["router"],
        serde_json::json!({ "address": format!("127.0.0.1:{port}"), "problem": null })
    );
    assert!(instance.expect(0, &["status"]).contains(&format!("router: 127.0.0.1:{port}")));
    let doctor = instance.run(&["doctor", "--json"]);
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.contains(&format!("{port} held by the running supervisor")), "{doctor}");

    instance.expect(0, &["stop", "32b"]);
    assert_eq!(ask("reasoning", "").0, 503);
    assert_eq!(ask("70b", "").0, 200);
}

#[test]
fn a_reload_opens_moves_and_closes_it() {
    let (first, second) = (free_port(), free_port());
    let mut instance = Instance::fake(vec![Entry::new("a", "always")]).serve();
    instance.wait_state("a", "ready");
    assert_eq!(instance.status()["router"], Value::Null);
    let mut with = |more: Option<u16>, said: &str| {
        let mut entry = Entry::new("a", "always");
        entry.port = instance.models.remove(0).port;
        instance.models = vec![match more {
            Some(port) => entry.with(&router(port)),
            None => entry,
        }];
        instance.write_registry();
        assert!(instance.expect(0, &["reload", "--dry-run"]).contains(said), "nothing is applied yet");
        let changes = instance.expect(0, &["reload"]);
        assert!(changes.contains("[router]") && changes.contains(said), "{changes}");
    };
    with(Some(first), &format!("127.0.0.1:{first}"));
    wait("the router opens", || listens(first));
    assert_eq!(http(at(first), "POST", "/v1/chat/completions", &chat("a", "")).0, 200);
    with(Some(second), &format!("127.0.0.1:{first}, now 127.0.0.1:{second}"));
    wait("the router moves", || listens(second) && !listens(first));
    assert_eq!(http(at(second), "POST", "/v1/chat/completions", &chat("a", "")).0, 200);
    with(None, "removed");
    wait("the router closes", || !listens(second));
    assert_eq!(instance.status()["router"], Value::Null);
    let kinds: Vec<_> =
        instance.events().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect();
    let of_router: Vec<_> = kinds.iter().filter(|kind| kind.starts_with("router")).collect();
    assert_eq!(of_router, ["router_listens", "router_listens", "router_closed"]);
}

#[test]
fn a_taken_port_is_reported_and_does_no_other_harm() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let instance = Instance::fake(vec![Entry::new("a", "always").with(&router(port))]).serve();
    instance.wait_state("a", "ready");
    let problem = || instance.status()["router"]["problem"].as_str().map(str::to_owned);
    wait("it is reported", || problem().is_some());
    let said = problem().unwrap();
    assert!(said.starts_with(&format!("port {port} is held by ")), "{said}");
    assert!(said.ends_with(&format!("(pid {})", std::process::id())), "{said}");
    assert!(instance.status()["supervisor"]["waiting_for"].to_string().contains(&said));
    let doctor = String::from_utf8(instance.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains(&format!("another program listens on {port} (the router)")), "{doctor}");
    assert_eq!(http(instance.gate("a"), "POST", "/v1/chat/completions", &chat("a", "")).0, 200);
    drop(taken);
    wait("it listens", || instance.status()["router"]["problem"] == Value::Null);
    assert_eq!(http(at(port), "POST", "/v1/chat/completions", &chat("a", "")).0, 200);
}

#[test]
fn without_a_supervisor_its_address_is_part_of_the_plan() {
    let port = free_port();
    let instance = Instance::fake(vec![Entry::new("a", "always").with(&router(port))]);
    let output = instance.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &status["router"]["address"]),
        (Some(3), &format!("127.0.0.1:{port}").into())
    );
}

#[test]
fn requests_during_a_hand_over_wait_for_the_next_supervisor() {
    let port = free_port();
    let entry = Entry::new("a", "always").faults(&["token=0.05"]).with(&router(port));
    let mut instance = Instance::fake(vec![entry]).serve();
    instance.wait_state("a", "ready");
    wait("the router", || listens(port));
    let under_way =
        std::thread::spawn(move || try_http(at(port), "POST", "/v1/chat/completions", &chat("a", "")));
    wait("it is in flight", || instance.model("a")["traffic"]["in_flight"] == 1);
    control(&instance.root().join("run/mlxctl.sock"), "POST", "/v1/handover");
    let next = std::thread::spawn(move || insist(at(port), &chat("a", "")));
    let (status, text) = under_way.join().unwrap().expect("an answer");
    assert_eq!(status, 200, "what is in flight is finished: {text}");
    assert_eq!(instance.wait_for_end(), Some(0));
    instance.serve_again();
    assert!(next.join().unwrap().contains("t1 "));
    assert_eq!(instance.model("a")["adopted"], true);
}
