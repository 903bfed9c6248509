//! The counters match what happened, and Prometheus can read them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::support::{Entry, Instance, free_port, http};

/// Every sample by name and labels. Panics if a line is not a sample, or a family occurs twice or has no type.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut found, mut families) = (BTreeMap::new(), Vec::new());
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let name = family.split(' ').next().unwrap().to_owned();
            assert!(!families.contains(&name), "{name} occurs twice");
            families.push(name);
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            assert!(families.iter().any(|family| bare.starts_with(family.as_str())), "{line}");
            assert!(found.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line} occurs twice");
        }
    }
    found
}

fn over_the_socket(instance: &Instance) -> String {
    let mut stream = UnixStream::connect(instance.root().join("run/mlxctl.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: mlxctl\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("text/plain; version=0.0.4"), "{text}");
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn states_requests_tokens_and_events_are_counted_as_they_happened() {
    let instance = Instance::fake(vec![Entry::new("a", "always"), Entry::new("b", "manual")]).serve();
    instance.wait_state("a", "ready");
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":5,"stream":true}"#;
    for _ in 0..3 {
        assert_eq!(http(instance.gate("a"), "POST", "/v1/chat/completions", body).0, 200);
    }
    assert_eq!(http(instance.gate("a"), "POST", "/v1/chat/completions", "{}").0, 400);
    assert_eq!(http(instance.gate("b"), "GET", "/health", "").0, 503);
    let seen = samples(&over_the_socket(&instance));
    let value = |name: &str| *seen.get(name).unwrap_or_else(|| panic!("no {name} in {seen:#?}"));
    assert_eq!(value("mlxctl_model_state{model=\"a\",state=\"ready\"}"), 1.0);
    assert_eq!(value("mlxctl_model_state{model=\"a\",state=\"loading\"}"), 0.0);
    assert_eq!(value("mlxctl_model_state{model=\"b\",state=\"stopped\"}"), 1.0);
    assert_eq!(value("mlxctl_gate_responses_total{model=\"a\",code=\"200\"}"), 3.0);
    assert_eq!(value("mlxctl_gate_responses_total{model=\"a\",code=\"400\"}"), 1.0);
    assert_eq!(value("mlxctl_gate_responses_total{model=\"b\",code=\"503\"}"), 1.0);
    assert_eq!(value("mlxctl_gate_requests_total{model=\"a\"}"), 4.0);
    assert_eq!(value("mlxctl_gate_errors_total{model=\"a\"}"), 1.0);
    assert_eq!(value("mlxctl_gate_leases{model=\"a\"}"), 0.0);
    assert_eq!(value("mlxctl_gate_ttft_seconds_count{model=\"a\"}"), 3.0);
    assert_eq!(value("mlxctl_gate_ttft_seconds_bucket{model=\"a\",le=\"+Inf\"}"), 3.0);
    let tokens = instance.model("a")["traffic"]["tokens"].as_f64().unwrap();
    assert!(tokens >= 12.0, "three answers of five tokens: {tokens}");
    assert_eq!(value("mlxctl_gate_tokens_total{model=\"a\"}"), tokens);
    assert_eq!(
        value("mlxctl_gate_per_token_seconds_count{model=\"a\"}"),
        tokens - 3.0,
        "all but the first of each"
    );
    assert_eq!(value("mlxctl_events_total{model=\"a\",kind=\"ready\"}"), 1.0);
    assert_eq!(value("mlxctl_events_total{model=\"\",kind=\"up\"}"), 1.0);
    assert!(value("mlxctl_model_footprint_bytes{model=\"a\"}") > 1e6);
    assert!(!seen.contains_key("mlxctl_model_footprint_bytes{model=\"b\"}"), "an unknown value has no line");
    assert_eq!(
        value("mlxctl_budget_free_bytes"),
        value("mlxctl_budget_total_bytes")
            - value("mlxctl_budget_reserved_bytes")
            - value("mlxctl_budget_models_bytes")
    );
}

/// With the real server, whose answers take time between their tokens.
#[test]
fn speed_and_time_to_the_first_token_are_those_of_real_answers() {
    let instance = Instance::real(vec![Entry::new("tiny", "always")]).serve();
    instance.wait_state("tiny", "ready");
    let (speed, first) = ("mlxctl_model_tokens_per_second", "mlxctl_gate_ttft_seconds");
    let read = || {
        let seen = samples(&over_the_socket(&instance));
        move |name: &str, more: &str| seen.get(&format!("{name}{{model=\"tiny\"{more}}}")).copied()
    };
    let value = read();
    assert_eq!(value(speed, ""), None, "without an answer there is no speed");
    assert_eq!(value(&format!("{first}_count"), ""), Some(0.0));
    // It says nothing that would end it before its last token.
    let ask = |stream: bool| {
        let body = serde_json::json!({
            "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200, "stream": stream,
            "logit_bias": crate::real::endless(),
        });
        let began = Instant::now();
        let (status, answer) = http(instance.gate("tiny"), "POST", "/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{answer}");
        began.elapsed().as_secs_f64()
    };
    let took = ask(true);
    let value = read();
    let shown = instance.model("tiny")["traffic"]["tokens_per_second"].as_f64();
    assert!(shown.is_some() && value(speed, "") == shown, "{shown:?}");
    assert!(value(speed, "") > Some(199.0 / took), "all but the first came in less than the whole time");
    let sum = value(&format!("{first}_sum"), "").unwrap();
    assert!(0.0 < sum && sum < took, "{sum} of {took} s");
    assert_eq!(value(&format!("{first}_count"), ""), Some(1.0));
    assert_eq!(value(&format!("{first}_bucket"), ",le=\"+Inf\""), Some(1.0));
    assert_eq!(value("mlxctl_gate_per_token_seconds_count", ""), Some(199.0));
    // The first token of an answer that comes at once is not seen.
    ask(false);
    let value = read();
    assert_eq!(value(&format!("{first}_count"), ""), Some(1.0));
    assert_eq!(value("mlxctl_gate_tokens_total", ""), Some(400.0));
    assert!(value(speed, "").is_some());
}

#[test]
fn the_registry_may_name_a_listener_and_a_reload_moves_it() {
    let at = |port: u16| format!("[metrics]\naddress = \"127.0.0.1:{port}\"");
    let (first, second) = (free_port(), free_port());
    let mut instance = Instance::fake(vec![Entry::new("a", "manual").with(&at(first))]).serve();
    let read = |port: u16| http(([127, 0, 0, 1], port).into(), "GET", "/metrics", "");
    let wait = |port: u16| {
        let began = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < crate::support::PATIENCE, "nothing listens on {port}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    wait(first);
    let (status, text) = read(first);
    assert_eq!(status, 200);
    assert!(samples(&text).contains_key("mlxctl_uptime_seconds"), "{text}");
    assert_eq!(http(([127, 0, 0, 1], first).into(), "GET", "/v1/status", "").0, 404);
    assert_eq!(http(([127, 0, 0, 1], first).into(), "POST", "/metrics", "{}").0, 404);

    instance.models = vec![Entry::new("a", "manual").with(&at(second))];
    instance.write_registry();
    instance.expect(0, &["reload"]);
    wait(second);
    assert_eq!(read(second).0, 200);
    assert!(std::net::TcpStream::connect(("127.0.0.1", first)).is_err(), "the old one is closed");
}

#[test]
fn silent_connections_lock_no_one_out_and_foreign_host_names_are_refused() {
    let port = free_port();
    // An IPv6 socket, which sees IPv4 clients as IPv6 addresses.
    let at = format!("[metrics]\naddress = \"[::ffff:127.0.0.1]:{port}\"");
    let instance = Instance::fake(vec![Entry::new("a", "manual").with(&at)]).serve();
    let began = std::time::Instant::now();
    let connect = || loop {
        match std::net::TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(_) => assert!(began.elapsed() < crate::support::PATIENCE, "nothing listens"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let _silent: Vec<_> = (0..40).map(|_| connect()).collect();
    let ask = |host: &str| {
        let mut stream = connect();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).map(str::to_owned)
    };
    assert_eq!(ask("127.0.0.1:9464").as_deref(), Some("200"), "a client with IPv4 on a socket for IPv6");
    assert_eq!(ask("evil.example").as_deref(), Some("421"));
    drop(instance);
}

#[test]
fn a_listener_that_cannot_listen_is_reported_and_does_no_other_harm() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let entry = Entry::new("a", "always").with(&format!("[metrics]\naddress = \"{address}\""));
    let instance = Instance::fake(vec![entry]).serve();
    instance.wait_state("a", "ready");
    let waits = instance.status()["supervisor"]["waiting_for"].to_string();
    assert!(waits.contains(&format!("cannot listen on {address}")), "{waits}");
}

#[test]
fn the_dashboard_uses_only_metrics_that_exist() {
    let instance = Instance::fake(vec![Entry::new("a", "always").faults(&["token=0.005"])]).serve();
    instance.wait_state("a", "ready");
    // Long enough to have a speed.
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":60,"stream":true}"#;
    assert_eq!(http(instance.gate("a"), "POST", "/v1/chat/completions", body).0, 200);
    let text = over_the_socket(&instance);
    let dashboard = include_str!("../../docs/grafana.json");
    serde_json::from_str::<serde_json::Value>(dashboard).unwrap();
    let names = dashboard.split("mlxctl_").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap();
        format!("\nmlxctl_{}", &rest[..end])
    });
    let mut tried = 0;
    for name in names {
        assert!(text.contains(&format!("{name}{{")) || text.contains(&format!("{name} ")), "{name}");
        tried += 1;
    }
    assert!(tried > 15, "{tried}");
}
