//! What one client sends does not cost the others anything: turns, room for bodies, places, lines of the log, memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mlxctl::internals::gate::{Availability, GateConfig};
use mlxctl::internals::units::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::door::{Answer, Client, Door, chat};
use crate::support::upstream::{Backend, Step, answer_of};

async fn door(change: impl FnOnce(&mut GateConfig)) -> (Backend, Door) {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let ready = Availability::Ready(backend.upstream(1));
    (backend, Door::open(ready, change).await)
}

/// Counts the turns of all other tasks on this thread until `work` is done.
async fn turns_of_others<T>(work: impl Future<Output = T>) -> (T, u64) {
    let turns = Arc::new(AtomicU64::new(0));
    let counter = turns.clone();
    let others = tokio::spawn(async move {
        loop {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let done = work.await;
    others.abort();
    (done, turns.load(Ordering::Relaxed))
}

/// Reads `count` answers to their end.
async fn answers(stream: &mut TcpStream, count: usize) -> String {
    let (mut text, mut bytes) = (String::new(), vec![0; 1 << 16]);
    while text.matches("HTTP/1.1 ").count() < count || !text.ends_with("}}\n") {
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "the connection ended after {} answers", text.matches("HTTP/1.1 ").count());
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    text
}

#[tokio::test]
async fn pipelined_requests_take_a_turn_each() {
    const COUNT: usize = 1000;
    let (_backend, door) = door(|_| {}).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let requests = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(COUNT);
    let (text, turns) = turns_of_others(async {
        let (mut read, mut write) = stream.split();
        let sent = async { write.write_all(requests.as_bytes()).await.unwrap() };
        let mut text = String::new();
        let mut bytes = vec![0; 1 << 16];
        let received = async {
            while text.matches("HTTP/1.1 404").count() < COUNT {
                let count = read.read(&mut bytes).await.unwrap();
                assert!(count > 0);
                text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            }
        };
        tokio::join!(sent, received);
        text
    })
    .await;
    assert_eq!(text.matches("HTTP/1.1 404").count(), COUNT);
    // The last one in each piece that arrives waits for the next piece anyway.
    assert!(turns >= COUNT as u64 / 2, "{turns} turns of others during {COUNT} requests");
}

#[tokio::test]
async fn a_body_in_tiny_chunks_takes_a_turn_for_each_piece_that_arrives() {
    const CHUNKS: usize = 300_000;
    let (_backend, door) = door(|_| {}).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = head.to_owned() + &"1\r\n \r\n".repeat(CHUNKS) + "0\r\n\r\n";
    let (text, turns) = turns_of_others(async {
        stream.write_all(body.as_bytes()).await.unwrap();
        answers(&mut stream, 1).await
    })
    .await;
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("not valid JSON"), "{text}");
    // At least one turn after each 64 KiB.
    assert!(turns >= body.len() as u64 >> 16, "{turns}");
}

#[tokio::test]
async fn a_large_body_is_read_while_others_are_served() {
    let (_backend, door) = door(|config| config.limits.body = Bytes(8 << 20)).await;
    let escapes = "\\\"".repeat(3 << 20);
    let mut client = door.client().await;
    let body = format!("{{\"prompt\": \"{escapes}\", \"max_tokens\": 1}}");
    let ((), turns) = turns_of_others(async {
        client.post("/v1/completions", &body).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    })
    .await;
    assert!(turns > 100, "{turns} turns of others while six megabytes were read");
}

#[tokio::test]
async fn unfinished_bodies_lock_no_client_out() {
    const LIMIT: usize = 1 << 20;
    let (_backend, door) = door(|config| config.limits.body = Bytes(LIMIT as u64)).await;
    let head = format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LIMIT}\r\n\r\n");
    let (told, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..8 {
        let mut client = door.client().await;
        client.send(&(head.clone() + &"a".repeat(LIMIT - 1))).await;
        let told = told.clone();
        tokio::spawn(async move { told.send(client.answer().await) });
    }
    // There is room for half of them, which is what one address may have; the others are refused.
    for _ in 0..4 {
        let answer = answers.recv().await.unwrap();
        assert_eq!((answer.status, &answer.error()["code"]), (503, &"overloaded".into()));
    }
    let answer = door.post("/v1/completions", r#"{"prompt":"hi","max_tokens":2}"#).await;
    assert_eq!(answer.status, 200, "a small request has room");
}

#[tokio::test]
async fn silent_connections_give_up_their_places() {
    let (_backend, door) = door(|config| config.limits.connections = 8).await;
    let mut silent = Vec::new();
    for sent in
        ["", "GET /he", "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"]
    {
        for _ in 0..4 {
            let mut client = door.client().await;
            client.send(sent).await;
            silent.push(client);
        }
    }
    for _ in 0..3 {
        assert_eq!(door.chat("").await.status, 200);
    }
    let mut ended = silent.remove(0);
    assert!(ended.closed().await, "the one that was silent for longest");
}

#[tokio::test]
async fn a_long_field_name_is_not_echoed() {
    let (_backend, door) = door(|config| config.limits.body = Bytes(8 << 20)).await;
    let name = "n".repeat(4 << 20);
    for (body, param) in [
        (chat(&format!(", \"chat_template_kwargs\": {{\"{name}\": 1}}")), true),
        (chat("").replace("\"tiny\"", &format!("\"{name}\"")), true),
        (chat(&format!(", \"logit_bias\": {{\"{name}\": 1}}")), true),
    ] {
        let answer = door.post("/v1/chat/completions", &body).await;
        assert!((400..=404).contains(&answer.status));
        assert!(!answer.text().contains(&name[..129]), "{}", &answer.text()[..200]);
        assert_eq!(answer.error()["param"].is_string(), param);
    }
    for head in [
        format!("GET /{} HTTP/1.1\r\nHost: localhost", &name[..9000]),
        format!("GET / HTTP/1.1\r\nHost: {}", &name[..9000]),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: {}", &name[..9000]),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}: \u{1}", &name[..9000]),
        format!("GET /v1/models/{} HTTP/1.1\r\nHost: localhost", &name[..9000]),
    ] {
        let mut client = door.client().await;
        client.send(&(head + "\r\n\r\n")).await;
        let answer = client.answer().await;
        assert!(!answer.text().contains(&name[..129]) && !answer.head.contains(&name[..129]), "{answer:?}");
    }
}

/// Sends all of a request before it reads anything, as many clients do.
async fn sends_all_first(door: &Door, headers: &str, body: &str) -> Answer {
    let mut client = door.client().await;
    let length = body.len();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    client.send(&(head + body)).await;
    client.answer().await
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_writes_all_of_its_body_first() {
    let (_backend, door) = door(|config| {
        config.limits.body = Bytes(16 << 20);
        config.network.require_key = true;
    })
    .await;
    let key = mlxctl::internals::gate::keys::add(
        &door.config.keys,
        "a",
        mlxctl::internals::gate::keys::May::Ask,
        0,
    )
    .unwrap();
    let body = format!("{{\"prompt\": \"{}\"}}", "a".repeat(17_000_000));
    let answer = sends_all_first(&door, "", &body).await;
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    let answer = sends_all_first(&door, &format!("Authorization: Bearer {key}\r\n"), &body).await;
    assert_eq!((answer.status, &answer.error()["code"]), (413, &"body_too_large".into()));
}

#[tokio::test]
async fn a_client_that_half_closes_after_its_request_gets_its_answer() {
    let backend = Backend::start(|_, request| {
        let streams = request.body.windows(14).any(|part| part == b"\"stream\": true");
        let answer = if streams { crate::support::upstream::stream(&["a", "b"]) } else { answer_of(7) };
        [vec![Step::Wait], answer].concat()
    })
    .await;
    let door = Door::before(&backend).await;
    for (more, wanted) in [("", "\"completion_tokens\": 7"), (", \"stream\": true", "data: [DONE]\n\n")] {
        let mut client = door.client().await;
        client.chat(more).await;
        client.stream.shutdown().await.unwrap();
        backend.open(1).await;
        // Longer than it takes to notice one that has left.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(door.gate.traffic().in_flight(), 1, "it is still there");
        backend.go_on();
        let answer = client.answer().await;
        assert!(answer.status == 200 && answer.text().contains(wanted), "{answer:?}");
        assert!(client.closed().await);
    }
    assert!(door.log(2).await.lines().all(|line| line.ends_with(" ok")));
}

#[tokio::test]
async fn a_stream_ends_when_its_client_leaves_and_continues_when_it_half_closes() {
    let backend = Backend::start(|_, _| {
        use crate::support::upstream::{done, event, stream_head};
        vec![stream_head(), event("a"), Step::Wait, event("b"), done()]
    })
    .await;
    let door = Door::before(&backend).await;
    let begun = async || {
        let mut client = door.client().await;
        client.chat(", \"stream\": true").await;
        client.until("data: ").await;
        client
    };
    let mut half = begun().await;
    half.stream.shutdown().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    backend.go_on();
    assert!(half.answer().await.text().ends_with("data: [DONE]\n\n"));
    // Everything that arrived was read, so the kernel reports only the end of the stream.
    drop(begun().await);
    backend.open(0).await;
    door.gate.traffic().drained().await;
}

#[tokio::test]
async fn an_address_an_empty_line_and_a_doubled_slash_are_understood_and_answers_have_a_date() {
    let (_backend, door) = door(|_| {}).await;
    let body = chat("");
    let length = body.len();
    for (target, before) in [
        ("http://localhost/v1/chat/completions", ""),
        ("/v1/chat/completions", "\r\n"),
        ("//v1/chat/completions", ""),
        ("/v1//chat/completions", "\r\n\r\n"),
    ] {
        let mut client = door.client().await;
        for _ in 0..2 {
            client
                .send(&format!(
                    "{before}POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
                ))
                .await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200, "{target} {before:?}");
            let date = answer.header("date").unwrap();
            assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        }
    }
    let mut client = Client::connect(door.address).await;
    client.send("GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 421, "the host in the target counts");
    assert!(door.get("/health").await.header("date").is_some());
}
