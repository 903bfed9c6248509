//! One address for many models: a request goes to the gate of the model that it names, with that gate's rules.

use std::net::SocketAddr;

use mlxctl::internals::gate::{Availability, GateConfig, Listening, Router, RouterConfig, keys};
use mlxctl::internals::registry::Start;
use mlxctl::internals::units::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::door::{Answer, Client, Door};
use crate::support::upstream::{Backend, Step, answer_of, done, event, stream_head};
use crate::support::{PATIENCE, free_port};

/// Two models and one address in front of them.
struct House {
    a: Door,
    b: Door,
    router: Router,
    config: RouterConfig,
    reports: mpsc::UnboundedReceiver<Listening>,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

fn called(name: &str) -> impl FnOnce(&mut GateConfig) {
    let (name, alias) = (name.to_owned(), format!("{name}-alias"));
    move |config| {
        config.accepted = vec![name.clone(), alias, format!("org/{name}")];
        config.name = name;
        config.start = Start::Manual;
    }
}

impl House {
    /// `change` makes the configuration of both gates, and with it that of the router.
    async fn open(a: Availability, b: Availability, change: impl Fn(&mut GateConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys.json");
        let make = |name: &'static str| {
            let (change, keys) = (&change, keys.clone());
            move |config: &mut GateConfig| {
                called(name)(config);
                config.keys = keys;
                change(config);
            }
        };
        let (a, b) = (Door::open(a, make("a")).await, Door::open(b, make("b")).await);
        let config = RouterConfig {
            port: free_port(),
            network: a.config.network.clone(),
            keys,
            access_log: folder.path().join("router.access.log"),
        };
        let (sender, reports) = mpsc::unbounded_channel();
        let router = Router::spawn(config.clone(), [&a.gate, &b.gate], sender);
        let mut house = Self { a, b, router, address: config.address(), config, reports, folder };
        assert_eq!(house.listening().await, Listening { addresses: vec![house.address], problem: None });
        house
    }

    async fn listening(&mut self) -> Listening {
        tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("no report").unwrap()
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    async fn post(&self, body: &str) -> Answer {
        let mut client = self.client().await;
        client.post("/v1/chat/completions", body).await;
        client.answer().await
    }

    async fn get(&self, path: &str) -> Answer {
        let mut client = self.client().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        client.answer().await
    }
}

/// A chat that names its model last, where it is hardest to find.
fn chat(model: &str, more: &str) -> String {
    format!(r#"{{"messages": [{{"role": "user", "content": "Hi"}}]{more}, "model": "{model}"}}"#)
}

fn served(backend: &Backend) -> Vec<String> {
    let of =
        |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["model"].as_str().unwrap().to_owned();
    backend.received().iter().map(|received| of(&received.body)).collect()
}

fn requests(door: &Door) -> (u64, u64) {
    let status = door.gate.traffic().status();
    (status.counts.requests, status.counts.errors)
}

#[tokio::test]
async fn the_name_decides_and_each_request_counts_for_its_model() {
    let (one, two) = (Backend::start(|_, _| answer_of(1)).await, Backend::start(|_, _| answer_of(2)).await);
    let ready = |backend: &Backend| Availability::Ready(backend.upstream(1));
    let house = House::open(ready(&one), ready(&two), |_| {}).await;
    let mut client = house.client().await;
    for (model, tokens) in [("a", 1), ("b", 2), ("a-alias", 1), ("org/b", 2), ("ORG/B", 2)] {
        client.post("/v1/chat/completions", &chat(model, "")).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, &answer.json()["usage"]["completion_tokens"]),
            (200, &json!(tokens)),
            "{model}"
        );
    }
    assert_eq!(served(&one), ["default_model"; 2], "what the backend calls it");
    assert_eq!(served(&two), ["default_model"; 3]);
    assert_eq!((requests(&house.a), requests(&house.b)), ((2, 0), (3, 0)));
    assert_eq!(house.a.log(2).await.lines().count(), 2);
    assert_eq!(house.b.log(3).await.lines().count(), 3);
    assert_eq!(house.b.gate.traffic().detail().codes, [(200, 3)].into());
    assert!(house.router.codes().is_empty(), "no response was the router's own");
}

#[tokio::test]
async fn names_that_differ_only_in_case_are_told_apart_if_written_exactly() {
    let (one, two) = (Backend::start(|_, _| answer_of(1)).await, Backend::start(|_, _| answer_of(2)).await);
    let ready = |backend: &Backend| Availability::Ready(backend.upstream(1));
    let house = House::open(ready(&one), ready(&two), |config| {
        let folder = if config.name == "a" { "/m/Tiny" } else { "/m/tiny" };
        config.accepted.push(folder.to_owned());
    })
    .await;
    let mut client = house.client().await;
    for (model, tokens) in [("/m/Tiny", 1), ("/m/tiny", 2), ("/M/TINY", 1), ("B-Alias", 2)] {
        client.post("/v1/chat/completions", &chat(model, "")).await;
        assert_eq!(client.answer().await.json()["usage"]["completion_tokens"], tokens, "{model}");
    }
    let mut get = async |path: &str| {
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        client.answer().await.status
    };
    assert_eq!(get("/v1/models/B-Alias").await, 200);
    assert_eq!(get("/v1/models/c").await, 404);
}

#[tokio::test]
async fn a_request_without_a_model_is_refused_with_the_names_there_are() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let house = House::open(Availability::Ready(backend.upstream(1)), Availability::Offline, |_| {}).await;
    let mut client = house.client().await;
    let mut ask = async |body: &str| {
        client.post("/v1/chat/completions", body).await;
        client.answer().await
    };
    for body in [r#"{"messages": []}"#, r#"{"model": null, "messages": []}"#] {
        let answer = ask(body).await;
        let error = answer.error();
        assert_eq!((answer.status, &error["param"]), (400, &json!("model")), "{body}");
        let message = error["message"].as_str().unwrap();
        assert_eq!(message, "'model' is missing; this address serves a, a-alias, org/a, b, b-alias, org/b");
    }
    let answer = ask(&chat("c", "")).await;
    assert_eq!((answer.status, &answer.error()["code"]), (404, &json!("model_not_found")));
    assert!(
        answer.error()["message"].as_str().unwrap().ends_with("serves a, a-alias, org/a, b, b-alias, org/b")
    );
    for body in ["", "[]", "{", r#"{"model": 7}"#, r#"{"model": "a", "model": "b", "messages": []}"#] {
        assert_eq!(ask(body).await.status, 400, "{body}");
    }
    assert_eq!(ask(&chat("a", "")).await.status, 200, "the connection stayed open through all of it");
    assert_eq!(backend.received().len(), 1);
    assert_eq!(house.router.codes(), [(400, 6), (404, 1)].into(), "the last one was a gate's");
    let log = house.folder.path().join("router.access.log");
    while std::fs::read_to_string(&log).unwrap_or_default().lines().count() < 7 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(std::fs::read_to_string(&log).unwrap().contains("model_not_found"));
}

#[tokio::test]
async fn all_models_are_listed_with_what_each_is_doing() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let house = House::open(Availability::Ready(backend.upstream(1)), Availability::Offline, |config| {
        config.accepted.truncate(1);
        // Both serve it: the first in the registry is meant.
        config.accepted.push("org/same".to_owned());
    })
    .await;
    let answer = house.get("/v1/models").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let list = answer.json();
    assert_eq!(list["object"], "list");
    let entries: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert_eq!((&entry["object"], &entry["owned_by"]), (&json!("model"), &json!("mlxctl")));
            assert!(entry["created"].is_u64());
            ["id", "root", "state"].map(|key| entry[key].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(entries, [["a", "a", "ready"], ["org/same", "a", "ready"], ["b", "b", "offline"]]);
    let one = house.get("/v1/models/org%2Fsame").await;
    assert_eq!((one.status, &one.json()["root"]), (200, &json!("a")));
    let off = house.get("/v1/models/b").await;
    assert_eq!((off.status, &off.error()["state"]), (503, &json!("offline")), "as its own gate says it");
    assert_eq!(house.get("/v1/models/c").await.error()["code"], "model_not_found");
    let health = house.get("/health").await;
    assert_eq!(
        (health.status, health.json()),
        (200, json!({ "status": "ok", "models": { "a": "ready", "b": "offline" } }))
    );

    house.a.availability.send_replace(Availability::Failed { why: "it is broken".to_owned() });
    assert_eq!(house.get("/v1/models").await.status, 200, "the list is there without any model");
    let health = house.get("/health").await;
    assert_eq!((health.status, &health.json()["models"]["a"]), (503, &json!("failed")));
    assert_eq!(health.error()["message"], "no model is ready: a is failed, b is offline");
    assert!(health.header("retry-after").is_some());
    assert_eq!(house.get("/v1/nothing").await.status, 404);
    assert_eq!(house.get("/v1/chat/completions").await.status, 405);
}

#[tokio::test]
async fn an_unavailable_model_is_refused_as_its_gate_refuses_it() {
    let house = House::open(Availability::Offline, Availability::Draining, |_| {}).await;
    let (through, direct) = (house.post(&chat("a", "")).await, {
        let mut client = house.a.client().await;
        client.post("/v1/chat/completions", &chat("a", "")).await;
        client.answer().await
    });
    assert_eq!((through.status, through.json()), (503, direct.json()));
    assert_eq!(
        (&through.error()["state"], through.header("x-should-retry")),
        (&json!("offline"), Some("false"))
    );
    assert!(through.error()["message"].as_str().unwrap().contains("mlxctl start a"));
    assert_eq!(house.post(&chat("b", "")).await.error()["code"], "model_draining");
    assert_eq!((requests(&house.a), requests(&house.b)), ((2, 2), (1, 1)));
}

#[tokio::test]
async fn a_client_that_a_gate_refuses_is_refused_by_the_router() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let ready = Availability::Ready(backend.upstream(1));
    let house = House::open(ready.clone(), ready, |config| config.network.require_key = true).await;
    let key = keys::add(&house.config.keys, "alice", keys::May::Ask, 1).unwrap();
    let ask = async |headers: &str| {
        let (mut client, body) = (house.client().await, chat("a", ""));
        let length = body.len();
        client
            .send(&format!(
                "POST /v1/chat/completions HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        client.answer().await
    };
    assert_eq!(ask("Host: localhost\r\n").await.status, 401);
    assert_eq!(ask("Host: localhost\r\nAuthorization: Bearer mlx-no\r\n").await.status, 401);
    let with_key = format!("Authorization: Bearer {key}\r\n");
    assert_eq!(ask(&format!("Host: evil.example\r\n{with_key}")).await.status, 421);
    assert_eq!(
        ask(&format!("Host: localhost\r\nOrigin: https://evil.example\r\n{with_key}")).await.status,
        403
    );
    assert!(backend.received().is_empty());
    assert_eq!(house.get("/v1/models").await.status, 401, "the list of models is for those with a key");
    assert_eq!(house.get("/health").await.status, 200, "a load balancer's check has none");
    let answer = ask(&format!("Host: localhost\r\nOrigin: https://ui.example\r\n{with_key}")).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("https://ui.example"))
    );
    assert!(house.a.log(1).await.contains(" alice "), "the key's name is in the model's log");
}

#[tokio::test]
async fn a_network_that_is_not_allowed_gets_nothing() {
    let house = House::open(Availability::Offline, Availability::Offline, |config| {
        config.network.host = [0, 0, 0, 0].into();
        config.network.allow_from = vec!["198.51.100.0/24".parse().unwrap()];
    })
    .await;
    assert_eq!(house.get("/v1/models").await.status, 200, "loopback always is");
    let own = nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter_map(|found| found.address?.as_sockaddr_in().map(|at| at.ip()));
    let Some(own) = own.into_iter().find(|ip| !ip.is_loopback()) else {
        return println!("skipped: this machine has no address but loopback");
    };
    let mut client = Client::connect((own, house.config.port).into()).await;
    client.send(&format!("GET /v1/models HTTP/1.1\r\nHost: {own}\r\n\r\n")).await;
    assert_eq!(client.answer().await.error()["code"], "address_not_allowed");
}

#[tokio::test]
async fn limits_are_those_of_the_gate_even_if_others_are_wider() {
    let backend = Backend::start(|_, _| [vec![Step::Wait], answer_of(1)].concat()).await;
    let ready = Availability::Ready(backend.upstream(1));
    let house = House::open(ready.clone(), ready, |config| {
        if config.name == "a" {
            config.limits.body = Bytes(500);
            (config.limits.in_flight, config.limits.queue) = (1, 1);
        }
    })
    .await;
    let large = |model: &str| chat(model, &format!(", \"user\": \"{}\"", "x".repeat(1000)));
    assert_eq!(house.post(&large("a")).await.status, 413);
    let mut wider = house.client().await;
    wider.post("/v1/chat/completions", &large("b")).await;
    backend.open(1).await;
    backend.go_on();
    assert_eq!(wider.answer().await.status, 200);

    // There is one queue for the backend, wherever a request comes from.
    let mut direct = house.a.client().await;
    direct.post("/v1/chat/completions", &chat("a", "")).await;
    backend.open(1).await;
    let mut waiting = house.client().await;
    waiting.post("/v1/chat/completions", &chat("a", "")).await;
    house.a.queued(1).await;
    let full = house.post(&chat("a", "")).await;
    assert_eq!((full.status, &full.error()["code"]), (429, &json!("queue_full")));
    for client in [&mut direct, &mut waiting] {
        backend.go_on();
        assert_eq!(client.answer().await.status, 200);
    }
    let too_large = chat("b", &format!(", \"user\": \"{}\"", "x".repeat(1 << 20)));
    assert_eq!(house.post(&too_large).await.status, 413, "more than any gate takes is not read");
}

#[tokio::test]
async fn a_stream_through_it_is_a_lease_of_its_model() {
    let backend =
        Backend::start(|_, _| vec![stream_head(), event("one"), Step::Wait, event("two"), done()]).await;
    let house = House::open(Availability::Ready(backend.upstream(1)), Availability::Offline, |_| {}).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut client = house.client().await;
        client.post("/v1/chat/completions", &chat("a", ", \"stream\": true")).await;
        client.until("one").await;
        streams.push(client);
    }
    assert_eq!(house.a.gate.traffic().in_flight(), 2);
    backend.go_on();
    let (mut ended, mut aborted) = (streams.remove(0), streams.remove(0));
    let text = ended.answer().await.text();
    assert!(text.contains("two") && text.ends_with("data: [DONE]\n\n"), "{text}");
    house.a.gate.abort(1, "it hung");
    assert!(aborted.answer().await.text().contains("it hung"));
}

#[tokio::test]
async fn a_new_configuration_moves_it_and_changes_its_models() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let ready = Availability::Ready(backend.upstream(1));
    let mut house = House::open(ready.clone(), ready, |_| {}).await;
    let mut kept = house.client().await;
    kept.post("/v1/chat/completions", &chat("a", "")).await;
    assert_eq!(kept.answer().await.status, 200);
    let moved = RouterConfig { port: free_port(), ..house.config.clone() };
    house.router.reconfigure(moved.clone(), [&house.b.gate]);
    assert_eq!(house.listening().await.addresses, [moved.address()]);
    // Another test may get the port that is free now, for as long as it runs.
    let closed = async {
        while tokio::net::TcpStream::connect(house.address).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), closed)
        .await
        .expect("the old address is closed");
    kept.post("/v1/chat/completions", &chat("b", "")).await;
    assert_eq!(kept.answer().await.status, 200, "an existing connection stays open");
    kept.post("/v1/chat/completions", &chat("a", "")).await;
    assert_eq!(kept.answer().await.status, 404);
    house.address = moved.address();
    assert_eq!(house.post(&chat("b", "")).await.status, 200);
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_and_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let door = Door::open(Availability::Offline, |_| {}).await;
    let config = RouterConfig {
        port: taken.local_addr().unwrap().port(),
        network: door.config.network.clone(),
        keys: folder.path().join("keys.json"),
        access_log: folder.path().join("router.access.log"),
    };
    let (sender, mut reports) = mpsc::unbounded_channel();
    let _router = Router::spawn(config.clone(), [&door.gate], sender);
    let first = reports.recv().await.unwrap();
    assert!(first.problem.unwrap().contains("in use by another program"));
    drop(taken);
    let then = tokio::time::timeout(PATIENCE, reports.recv()).await.unwrap().unwrap();
    assert_eq!(then, Listening { addresses: vec![config.address()], problem: None });
}

#[tokio::test]
async fn closing_lets_what_is_in_flight_end() {
    let backend = Backend::start(|_, _| vec![stream_head(), event("one"), Step::Wait, done()]).await;
    let house = House::open(Availability::Ready(backend.upstream(1)), Availability::Offline, |_| {}).await;
    let mut client = house.client().await;
    client.post("/v1/chat/completions", &chat("a", ", \"stream\": true")).await;
    client.until("one").await;
    let closing = tokio::spawn(house.router.close(PATIENCE));
    while tokio::net::TcpStream::connect(house.address).await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    backend.go_on();
    assert!(client.answer().await.text().ends_with("data: [DONE]\n\n"));
    closing.await.unwrap();
    assert!(client.closed().await);
}
