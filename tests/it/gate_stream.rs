//! Streams pass chunk by chunk, end properly or say why not, and end at the backend when the client leaves.

use std::time::Duration;

use crate::support::door::Door;
use crate::support::upstream::{Backend, Step, answer_of, comment, done, event, json, stream, stream_head};

const STREAM: &str = ", \"stream\": true";

#[tokio::test]
async fn a_chunk_passes_before_the_next_one_exists() {
    let backend = Backend::start(|_, _| {
        vec![
            stream_head(),
            Step::Wait,
            comment(1, 2),
            Step::Wait,
            event("one"),
            Step::Wait,
            event("two"),
            Step::Wait,
            done(),
        ]
    })
    .await;
    let door = Door::before(&backend).await;
    let mut client = door.client().await;
    client.chat(STREAM).await;
    for next in [": keepalive 1/2\n\n", "\"one\"", "\"two\""] {
        backend.go_on();
        client.until(next).await;
    }
    backend.go_on();
    let answer = client.answer().await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let expected = ": keepalive 1/2\n\ndata: {\"choices\": [{\"delta\": {\"content\": \"one\"}}]}\n\n\
                    data: {\"choices\": [{\"delta\": {\"content\": \"two\"}}]}\n\ndata: [DONE]\n\n";
    assert_eq!(answer.text(), expected, "every byte, and nothing else");
}

#[tokio::test]
async fn every_byte_passes_however_the_backend_splits_it() {
    let text: Vec<u8> = (0..300)
        .flat_map(|n| format!("data: {{\"n\": {n}, \"é\": \"{}\"}}\n\n", "x".repeat(n)).into_bytes())
        .collect();
    for size in [1, 7, 64, 1000, 17_000, 200_000] {
        let whole = text.clone();
        let backend = Backend::start(move |_, _| {
            let mut steps = vec![stream_head()];
            let few = &whole[..whole.len().min(size * 400)];
            steps.extend(few.chunks(size).map(|part| Step::Send(part.to_vec())));
            steps.push(done());
            steps
        })
        .await;
        let answer = Door::before(&backend).await.chat(STREAM).await;
        let expected = [&text[..text.len().min(size * 400)], b"data: [DONE]\n\n"].concat();
        assert!(answer.body == expected, "cut into {size}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_backends_connection_at_once() {
    // In each phase of an answer: before its head, between head and body, and in the middle.
    let phases: [fn() -> Vec<Step>; 4] = [
        || vec![Step::Wait],
        || vec![stream_head(), Step::Wait],
        || vec![stream_head(), comment(1, 9), Step::Wait],
        || vec![stream_head(), event("a"), Step::Wait],
    ];
    for phase in phases {
        let backend = Backend::start(move |_, _| phase()).await;
        let door = Door::before(&backend).await;
        let mut client = door.client().await;
        client.chat(STREAM).await;
        backend.open(1).await;
        assert_eq!(door.gate.traffic().in_flight(), 1);
        drop(client);
        backend.open(0).await;
        door.gate.traffic().drained().await;
        assert!(door.log(1).await.contains(" client_gone"));
    }
}

#[tokio::test]
async fn a_backend_that_dies_in_the_middle_ends_the_stream_with_an_error_event() {
    let backend = Backend::start(|_, _| {
        vec![stream_head(), event("one"), Step::Send(b"data: {\"half".to_vec()), Step::Wait, Step::Reset]
    })
    .await;
    let mut door = Door::before(&backend).await;
    let mut client = door.client().await;
    client.chat(STREAM).await;
    client.until("half").await;
    backend.go_on();
    let text = client.answer().await.text();
    let last = text
        .strip_suffix("\n\n")
        .unwrap()
        .rsplit("\n\n")
        .next()
        .unwrap()
        .strip_prefix("data: ")
        .unwrap()
        .to_owned();
    let event: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(
        (&event["error"]["code"], &event["error"]["type"]),
        (&"backend_lost".into(), &"server_error".into())
    );
    assert!(client.closed().await, "and the connection ends");
    assert_eq!(door.suspect().await, 1);
    assert_eq!(door.gate.traffic().status().counts.errors, 1);
    assert!(door.log(1).await.contains(" cut"));
}

#[tokio::test]
async fn a_stream_that_ends_without_its_end_is_an_error_too() {
    let backend = Backend::start(|_, _| vec![stream_head(), event("one")]).await;
    let text = Door::before(&backend).await.chat(STREAM).await.text();
    assert!(text.contains("\"one\"") && text.contains("backend_lost") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test]
async fn answers_without_a_stream_pass_completely_whatever_their_size() {
    for size in [0, 100, 100_000, 300_000, 3_000_000] {
        for told in [true, false] {
            let body = format!("{{\"content\": \"{}\"}}", "x".repeat(size));
            let sent = body.clone();
            let backend = Backend::start(move |_, _| json("200 OK", &sent, told)).await;
            let door = Door::before(&backend).await;
            let mut client = door.client().await;
            for _ in 0..2 {
                client.chat("").await;
                let answer = client.answer().await;
                assert!((answer.status, answer.text()) == (200, body.clone()), "{size} {told}");
            }
        }
    }
}

#[tokio::test]
async fn tokens_and_speeds_are_counted() {
    let backend = Backend::start(|number, _| match number {
        0 => answer_of(42),
        _ => {
            let mut steps = vec![stream_head(), comment(1, 1), Step::Pause(Duration::from_millis(20))];
            // Ten tokens, the event with the finish reason, the end.
            steps.extend((0..11).flat_map(|_| [event("x"), Step::Pause(Duration::from_millis(2))]));
            steps.push(done());
            steps
        }
    })
    .await;
    let door = Door::before(&backend).await;
    let traffic = door.gate.traffic();
    assert_eq!(traffic.last_activity(), None);
    door.chat("").await;
    let status = traffic.status();
    assert_eq!(
        (status.counts.requests, status.counts.errors, status.counts.tokens, status.ttft_ms),
        (1, 0, 42, None)
    );
    assert!(traffic.last_activity().is_some());
    door.chat(STREAM).await;
    let status = traffic.status();
    assert_eq!((status.counts.requests, status.counts.tokens), (2, 52));
    assert!(status.ttft_ms.unwrap() >= 20.0, "comments are not tokens: {status:?}");
    assert!(status.tokens_per_second.is_some(), "tokens over more than 5 ms have a speed: {status:?}");
    assert_eq!(door.chat(", \"stop\": 5").await.status, 400);
    assert_eq!((traffic.status().counts.requests, traffic.status().counts.errors), (3, 1));
}

#[tokio::test]
async fn a_thousand_streams_at_once_are_neither_lost_nor_mixed_up() {
    let backend = Backend::start(|_, request| {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let user = body["user"].as_str().unwrap().to_owned();
        let mut steps = vec![stream_head()];
        for number in 0..5 {
            steps.push(event(&format!("{user}-{number}")));
            steps.push(if number == 0 { Step::Wait } else { Step::Pause(Duration::from_millis(5)) });
        }
        steps.push(done());
        steps
    })
    .await;
    let door = Door::before(&backend).await;
    let mut clients = Vec::new();
    for number in 0..1000 {
        let mut client = door.client().await;
        client.chat(&format!(", \"stream\": true, \"user\": \"u{number}\"")).await;
        clients.push(client);
    }
    backend.open(1000).await;
    assert_eq!(door.gate.traffic().in_flight(), 1000);
    (0..1000).for_each(|_| backend.go_on());
    for (number, mut client) in clients.into_iter().enumerate() {
        let text = client.answer().await.text();
        let words: String = (0..5)
            .map(|n| {
                format!("data: {{\"choices\": [{{\"delta\": {{\"content\": \"u{number}-{n}\"}}}}]}}\n\n")
            })
            .collect();
        assert_eq!(text, words + "data: [DONE]\n\n");
    }
    door.gate.traffic().drained().await;
}

#[tokio::test]
async fn every_answer_and_line_of_the_log_names_the_request() {
    let backend = Backend::start(|_, request| {
        if request.body.windows(8).any(|part| part == b"\"stream\"") { stream(&["a"]) } else { answer_of(3) }
    })
    .await;
    let door = Door::before(&backend).await;
    let answers = [
        door.chat("").await,
        door.chat(STREAM).await,
        door.chat(", \"stop\": 5").await,
        door.get("/health").await,
        door.get("/x").await,
    ];
    let mut ids: Vec<_> = answers.iter().map(|answer| answer.header("x-request-id").unwrap()).collect();
    let log = door.log(5).await;
    for (id, line) in ids.iter().zip(log.lines()) {
        assert!(line.contains(&format!(" {id} ")), "{id}: {line}");
    }
    assert!(log.lines().next().unwrap().contains(" tokens=3 "), "{log}");
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let backend = Backend::start(|_, _| vec![stream_head(), Step::Send(vec![b'x'; 64 << 20])]).await;
    let door = Door::before(&backend).await;
    let mut client = door.client().await;
    client.chat(STREAM).await;
    client.until("xxx").await;
    // From here on, a minute passes as soon as nothing else happens.
    tokio::time::pause();
    backend.open(0).await;
    door.gate.traffic().drained().await;
    assert!(door.log(1).await.contains(" client_gone"));
}
