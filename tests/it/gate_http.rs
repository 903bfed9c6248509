//! The gate's own HTTP: persistent connections, chunked bodies, limits on everything, and nothing ambiguous.

use std::time::Duration;

use mlxctl::internals::gate::{Availability, GateConfig};
use mlxctl::internals::units::Bytes;

use crate::support::door::{Door, chat};
use crate::support::upstream::{Backend, Step, answer_of, stream};

async fn door(change: impl FnOnce(&mut GateConfig)) -> (Backend, Door) {
    let backend = Backend::start(|_, request| {
        let streams = request.body.windows(14).any(|part| part == b"\"stream\": true");
        if streams { stream(&["a", "b"]) } else { answer_of(1) }
    })
    .await;
    let ready = Availability::Ready(backend.upstream(1));
    (backend, Door::open(ready, change).await)
}

#[tokio::test]
async fn one_connection_serves_many_requests_of_every_kind() {
    let (_backend, door) = door(|_| {}).await;
    let mut client = door.client().await;
    for _ in 0..3 {
        client.chat("").await;
        assert_eq!(client.answer().await.status, 200);
        client.chat(", \"stream\": true").await;
        assert!(client.answer().await.text().ends_with("data: [DONE]\n\n"));
        client.chat(", \"stop\": 5").await;
        assert_eq!(client.answer().await.status, 400);
        client.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    }
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let last = client.answer().await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(client.closed().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_backend, door) = door(|_| {}).await;
    let mut client = door.client().await;
    let (plain, streamed) = (chat(", \"user\": \"1\""), chat(", \"stream\": true"));
    let post = |body: &str| {
        let length = body.len();
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let get = "GET /v1/models/nobody HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client
        .send(&[post(&streamed), get.to_owned(), post(&plain), post(&streamed), get.to_owned()].concat())
        .await;
    assert!(client.answer().await.text().ends_with("[DONE]\n\n"));
    assert_eq!(client.answer().await.status, 404);
    assert_eq!(client.answer().await.json()["usage"]["completion_tokens"], 1);
    assert!(client.answer().await.text().ends_with("[DONE]\n\n"));
    assert_eq!(client.answer().await.status, 404);
}

#[tokio::test]
async fn a_body_in_chunks_arrives_as_one() {
    let (backend, door) = door(|_| {}).await;
    let mut client = door.client().await;
    let body = chat("");
    let (a, b) = body.split_at(17);
    client
        .send(&format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{a}\r\n{:X}\r\n{b}\r\n0\r\n\r\n",
            a.len(),
            b.len()
        ))
        .await;
    assert_eq!(client.answer().await.status, 200);
    let received = &backend.received()[0];
    assert!(received.head.contains("Content-Length: ") && !received.head.contains("chunked"));
    client.chat("").await;
    assert_eq!(client.answer().await.status, 200, "the connection stays open after chunks");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_unless_it_is_refused() {
    let (_backend, door) = door(|config| config.limits.body = Bytes(1000)).await;
    let ask = |length: usize| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let body = chat("");
    let mut client = door.client().await;
    client.send(&ask(body.len())).await;
    assert_eq!(client.answer().await.status, 100);
    client.send(&body).await;
    assert_eq!(client.answer().await.status, 200);
    let mut client = door.client().await;
    client.send(&ask(1001)).await;
    assert_eq!(client.answer().await.status, 413);
    assert!(client.closed().await);
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_however_they_are_sent() {
    let (backend, door) = door(|config| config.limits.body = Bytes(1000)).await;
    let large = chat(&format!(", \"user\": \"{}\"", "x".repeat(1000)));
    assert_eq!(door.post("/v1/chat/completions", &large).await.status, 413);
    let mut client = door.client().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(&format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len())).await;
    assert_eq!(client.answer().await.status, 413);
    assert!(backend.received().is_empty());
}

#[tokio::test]
async fn memory_is_used_for_bytes_that_arrived_and_not_for_announced_ones() {
    const LIMIT: usize = 1_000_000;
    let (_backend, door) = door(|config| config.limits.body = Bytes(LIMIT as u64)).await;
    let begin = async |head: &str, sent: usize| {
        let mut client = door.client().await;
        let post = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n";
        client.send(&format!("{post}{head}\r\n\r\n{}", " ".repeat(sent))).await;
        client
    };
    let mut waiting = Vec::new();
    for _ in 0..40 {
        waiting.push(begin(&format!("Content-Length: {LIMIT}"), 0).await);
        waiting.push(begin("Transfer-Encoding: chunked", 0).await);
    }
    assert_eq!(door.chat("").await.status, 200, "eighty announced bodies cost nothing");
    // One more than one address may have.
    let (told, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..5 {
        let mut client = begin(&format!("Content-Length: {LIMIT}"), LIMIT - 1).await;
        let told = told.clone();
        tokio::spawn(async move { told.send(client.answer().await) });
    }
    let refused = answers.recv().await.unwrap();
    assert_eq!((refused.status, &refused.error()["code"]), (503, &"overloaded".into()));
    drop(waiting);
}

#[tokio::test]
async fn smuggling_attempts_are_refused_and_the_connection_ends() {
    let (backend, door) = door(|_| {}).await;
    let body = chat("");
    let smuggled = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let post = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n";
    for text in [
        format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{post}Content-Length: 0\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{post}Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n{smuggled}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n0 ;a=b\r\n\r\n{smuggled}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n{smuggled}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}x\r\n0\r\n\r\n{smuggled}"),
        format!("{post}X: a\nContent-Length: 0\r\n\r\n{smuggled}"),
        format!("{post}X: a\rContent-Length: 0\r\n\r\n{smuggled}"),
        format!("{post}Content-Length : 0\r\n\r\n{smuggled}"),
        format!("{post}Host: evil\r\nContent-Length: 0\r\n\r\n{smuggled}"),
        format!("{post}Content-Length: 1e1\r\n\r\n{smuggled}"),
        format!("\n{smuggled}"),
        format!("\r\r\n{smuggled}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}".repeat(20),
        "GET / HTTP/1.1\r\n".to_owned() + &"X: y\r\n".repeat(100) + "\r\n",
    ] {
        let mut client = door.client().await;
        client.send(&text).await;
        let answer = client.answer().await;
        assert!((400..=505).contains(&answer.status), "{text:?}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{text:?}");
        assert!(client.closed().await, "{text:?}");
    }
    assert!(backend.received().is_empty());
    assert_eq!(door.chat("").await.status, 200);
}

#[tokio::test]
async fn slow_heads_and_bodies_time_out_and_idle_connections_do_not_count_as_slow() {
    let (_backend, door) = door(|config| config.limits.read_timeout = Duration::from_millis(150)).await;
    let mut idle = door.client().await;
    let mut head = door.client().await;
    head.send("POST /v1/chat/completions HTTP/1.1\r\nHost: loc").await;
    let mut body = door.client().await;
    body.send("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"mod")
        .await;
    let mut chunk = door.client().await;
    chunk.send("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"m").await;
    for client in [&mut head, &mut body, &mut chunk] {
        assert_eq!(client.answer().await.status, 408);
        assert!(client.closed().await);
    }
    idle.chat("").await;
    assert_eq!(idle.answer().await.status, 200);
}

#[tokio::test]
async fn a_connection_too_many_is_refused_and_a_freed_place_is_reused() {
    let backend = Backend::start(|_, _| [vec![Step::Wait], answer_of(1)].concat()).await;
    let ready = Availability::Ready(backend.upstream(1));
    let door = Door::open(ready, |config| config.limits.connections = 2).await;
    let (mut first, mut second) = (door.client().await, door.client().await);
    for client in [&mut first, &mut second] {
        client.chat("").await;
    }
    backend.open(2).await;
    let mut third = door.client().await;
    let answer = third.answer().await;
    assert_eq!((answer.status, &answer.error()["code"]), (503, &"too_many_connections".into()));
    assert!(answer.header("retry-after").is_some());
    assert!(third.closed().await);
    backend.go_on();
    backend.go_on();
    assert_eq!((first.answer().await.status, second.answer().await.status), (200, 200));
    // Both are idle now: a new connection takes the place of the one that has been idle longer.
    assert_eq!(door.get("/health").await.status, 200);
}

#[tokio::test]
async fn http_1_0_gets_a_stream_that_ends_with_the_connection() {
    let (_backend, door) = door(|_| {}).await;
    let body = chat(", \"stream\": true");
    let mut client = door.client().await;
    client
        .send(&format!("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.header("transfer-encoding"), answer.header("connection")), (None, Some("close")));
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
}
