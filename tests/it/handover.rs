//! A supervisor hands over to the next one: the models stay, and clients notice a short wait at most.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mlxctl::internals::api::client::Client;
use nix::sys::signal::Signal;

use crate::support::{Entry, Instance, PATIENCE, alive, control, insist, signal};

/// An answer of `tokens` tokens, as it arrives.
fn stream(instance: &Instance, tokens: u32) -> BufReader<TcpStream> {
    let body =
        format!(r#"{{"messages":[{{"role":"user","content":"x"}}],"max_tokens":{tokens},"stream":true}}"#);
    let mut stream = TcpStream::connect(instance.gate("a")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut stream = BufReader::new(stream);
    let mut begun = String::new();
    // The first token is there: the answer is in progress.
    while !begun.contains("t1 ") {
        assert_ne!(stream.read_line(&mut begun).unwrap(), 0, "the answer ended before it began: {begun}");
    }
    stream
}

fn rest(mut stream: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn one(drain: &str) -> Instance {
    let stop = format!("stop = {{ drain = {drain:?} }}");
    let model = Entry::new("a", "always").with(&stop).faults(&["token=0.05", "tokens=100"]);
    let instance = Instance::fake(vec![model]).serve();
    instance.wait_state("a", "ready");
    instance
}

fn hand_over(instance: &Instance) {
    let answer = control(&instance.root().join("run/mlxctl.sock"), "POST", "/v1/handover");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

#[test]
fn requests_in_flight_finish_and_new_ones_wait_for_the_next_supervisor() {
    let mut instance = one("30s");
    let pid = instance.pid("a");
    let answer = stream(&instance, 20);
    hand_over(&instance);
    let gate = instance.gate("a");
    let waits = std::thread::spawn(move || {
        insist(gate, r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":1}"#)
    });
    let text = rest(answer);
    assert!(text.contains("t20 ") && text.contains("[DONE]"), "{text}");
    assert_eq!(instance.wait_for_end(), Some(0));
    let began = Instant::now();
    instance.serve_again();
    instance.wait_state("a", "ready");
    println!("ready again after {:?}", began.elapsed());
    assert!(waits.join().unwrap().contains("t1 "));
    assert_eq!(instance.pid("a"), pid);
    assert_eq!(instance.model("a")["adopted"], true);
}

#[test]
fn what_takes_longer_than_the_drain_is_ended_with_the_error_event() {
    let mut instance = one("300ms");
    let answer = stream(&instance, 100);
    let began = Instant::now();
    hand_over(&instance);
    let text = rest(answer);
    assert_eq!(instance.wait_for_end(), Some(0));
    assert!(text.contains("\"error\"") && text.contains("being replaced"), "{text}");
    assert!(!text.contains("t100 "), "5 s of tokens were not waited for");
    assert!(began.elapsed() >= Duration::from_millis(300));
    instance.serve_again();
    instance.wait_state("a", "ready");
}

#[test]
fn a_stop_in_progress_completes_before_the_hand_over() {
    let mut instance = one("30s");
    let _answer = stream(&instance, 40);
    let mut stop = instance.mlxctl(&["stop", "a"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    instance.wait_state("a", "draining");
    hand_over(&instance);
    assert_eq!(stop.wait().unwrap().code(), Some(0), "its client is answered");
    assert_eq!(instance.wait_for_end(), Some(0));
    instance.serve_again();
    assert_eq!(instance.model("a")["reason"], "stopped by hand");
}

fn end(instance: &Instance) {
    signal(instance.supervisor_pid(), Signal::SIGTERM);
}

#[test]
fn before_its_job_is_unloaded_it_lets_answers_end_and_stays_until_told_to_end() {
    let mut instance = one("30s");
    let pid = instance.pid("a");
    let answer = stream(&instance, 20);
    let client = Client::new(&instance.root().join("run"));
    assert!(client.hand_over_and_hold(Duration::from_secs(30), PATIENCE).unwrap(), "it says that it stays");
    let text = rest(answer);
    assert!(text.contains("t20 ") && text.contains("[DONE]"), "answered only once it is quiet: {text}");
    assert!(alive(instance.supervisor_pid()), "launchd would start another one");
    end(&instance);
    assert_eq!(instance.wait_for_end(), Some(0));
    assert!(alive(pid), "SIGTERM does not mean the models then");
    instance.serve_again();
    assert_eq!(instance.wait_state("a", "ready")["adopted"], true);
}

#[test]
fn it_stays_no_longer_than_told() {
    let mut instance = one("30s");
    let client = Client::new(&instance.root().join("run"));
    assert!(client.hand_over_and_hold(Duration::ZERO, Duration::from_millis(100)).unwrap());
    assert_eq!(instance.wait_for_end(), Some(0), "the client that asked was killed");
}

#[test]
fn told_to_end_while_it_hands_over_it_leaves_now_and_the_models_stay() {
    let mut instance = one("10m");
    let pid = instance.pid("a");
    let answer = stream(&instance, 100);
    hand_over(&instance);
    end(&instance);
    assert_eq!(instance.wait_for_end(), Some(0));
    let text = rest(answer);
    assert!(text.contains("being replaced") && !text.contains("t100 "), "{text}");
    assert!(alive(pid));
    instance.serve_again();
    assert_eq!(instance.wait_state("a", "ready")["pid"], pid);
}
