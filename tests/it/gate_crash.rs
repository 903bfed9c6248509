//! A crash before the first byte of the answer is invisible to the client; one after it is reported.

use std::time::Duration;

use mlxctl::internals::gate::Availability;

use crate::support::door::{Client, Door};
use crate::support::upstream::{Backend, Step, answer_of, comment, done, event, json, stream, stream_head};

const STREAM: &str = ", \"stream\": true";
const AWAY: Availability = Availability::Loading { ready_at: None, hold: true };

type Death = fn() -> Vec<Step>;

async fn posted(door: &Door, more: &str) -> Client {
    let mut client = door.client().await;
    client.chat(more).await;
    client
}

#[tokio::test]
async fn a_request_without_an_answer_yet_is_sent_again_to_the_next_run() {
    // Cut before the first byte, after the head, after a keep-alive comment, and by a dead generation thread.
    let deaths: [(&str, Death); 4] = [
        ("", || vec![Step::Wait, Step::Reset]),
        (STREAM, || vec![stream_head(), Step::Wait, Step::Reset]),
        (STREAM, || vec![stream_head(), comment(1, 9), Step::Wait, Step::Reset]),
        ("", || {
            [vec![Step::Wait], json("404 Not Found", "{\"error\": \"generation thread died\"}", false)]
                .concat()
        }),
    ];
    for (more, death) in deaths {
        let old = Backend::start(move |_, _| death()).await;
        let new =
            Backend::start(move |_, _| if more.is_empty() { answer_of(7) } else { stream(&["again"]) }).await;
        let mut door = Door::before(&old).await;
        let mut client = posted(&door, more).await;
        old.open(1).await;
        old.go_on();
        assert_eq!(door.suspect().await, 1);
        door.availability.send_replace(AWAY);
        door.queued(1).await;
        door.availability.send_replace(Availability::Ready(new.upstream(2)));
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains(if more.is_empty() { "\"completion_tokens\": 7" } else { "again" }));
        assert_eq!(old.received()[0].body, new.received()[0].body, "the same request");
        assert!(door.log(1).await.contains(" sent=2 ok"));
        assert_eq!(door.gate.traffic().status().counts.errors, 0);
    }
}

#[tokio::test]
async fn a_request_is_sent_again_only_once() {
    let old = Backend::start(|_, _| vec![Step::Reset]).await;
    let new = Backend::start(|_, _| vec![Step::Reset]).await;
    let mut door = Door::before(&old).await;
    let mut client = posted(&door, "").await;
    door.suspect().await;
    door.availability.send_replace(Availability::Ready(new.upstream(2)));
    let answer = client.answer().await;
    assert_eq!((answer.status, &answer.error()["code"]), (502, &"backend_lost".into()));
    assert_eq!((old.received().len(), new.received().len()), (1, 1));
}

#[tokio::test]
async fn a_request_is_not_repeated_to_a_run_that_cut_it_and_lives_on() {
    let backend =
        Backend::start(|number, _| if number == 0 { vec![Step::Reset] } else { answer_of(1) }).await;
    let door = Door::before(&backend).await;
    assert_eq!(door.chat("").await.status, 502);
    assert_eq!(backend.received().len(), 1);
    assert_eq!(door.chat("").await.status, 200);
}

#[tokio::test]
async fn requests_wait_for_an_always_on_model_that_restarts() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::open(AWAY, |_| {}).await;
    let mut client = posted(&door, "").await;
    door.queued(1).await;
    assert_eq!(door.get("/health").await.status, 503, "meanwhile the health check tells the truth");
    door.availability.send_replace(Availability::Ready(backend.upstream(1)));
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn requests_wait_for_a_starting_manual_model_if_they_ask_to() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let manual = Availability::Loading { ready_at: None, hold: false };
    let door =
        Door::open(manual.clone(), |config| config.limits.queue_timeout = Duration::from_secs(40)).await;
    assert_eq!(door.chat("").await.error()["code"], "model_loading", "no request waits without asking to");
    let mut client = door.client().await;
    client.chat_with("Prefer: wait=600\r\n", "").await;
    door.queued(1).await;
    door.availability.send_replace(Availability::Ready(backend.upstream(1)));
    let answer = client.answer().await;
    // But no longer than the registry allows.
    assert_eq!((answer.status, answer.header("preference-applied")), (200, Some("wait=40")));
    assert_eq!(door.chat("").await.header("preference-applied"), None);
    door.availability.send_replace(manual);
    client.chat_with("Prefer: wait=0\r\n", "").await;
    assert_eq!(client.answer().await.error()["code"], "model_loading");
    // Waiting starts nothing.
    door.availability.send_replace(Availability::Offline);
    client.chat_with("Prefer: wait=30\r\n", "").await;
    assert_eq!(client.answer().await.error()["code"], "model_offline");
}

#[tokio::test]
async fn requests_stop_waiting_when_there_is_nothing_to_wait_for() {
    for (next, code) in [
        (Availability::Failed { why: "it crashed 5 times".to_owned() }, "model_failed"),
        (Availability::Offline, "model_offline"),
        (Availability::Draining, "model_draining"),
    ] {
        let door = Door::open(AWAY, |_| {}).await;
        let mut client = posted(&door, "").await;
        door.queued(1).await;
        door.availability.send_replace(next);
        let answer = client.answer().await;
        assert_eq!((answer.status, &answer.error()["code"]), (503, &code.into()));
    }
    let door = Door::open(AWAY, |config| config.limits.queue_timeout = Duration::from_millis(50)).await;
    let answer = door.chat("").await;
    assert_eq!((answer.status, &answer.error()["code"]), (503, &"model_loading".into()));
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn a_manual_model_that_crashes_is_not_waited_for() {
    let backend = Backend::start(|_, _| vec![Step::Reset]).await;
    let mut door = Door::before(&backend).await;
    let mut client = posted(&door, "").await;
    door.suspect().await;
    door.availability.send_replace(Availability::Loading { ready_at: None, hold: false });
    assert_eq!(client.answer().await.error()["code"], "model_loading");
}

/// When the backend is killed, it has ten requests, and half of their answers have begun. Forty wait in the queue.
#[tokio::test]
async fn fifty_requests_survive_the_killing_of_their_backend() {
    let old = Backend::start(|number, _| match number % 2 {
        0 => vec![stream_head(), event("old"), Step::Wait],
        _ => vec![stream_head(), Step::Wait],
    })
    .await;
    let new = Backend::start(|_, _| {
        vec![stream_head(), event("new"), Step::Pause(Duration::from_millis(5)), done()]
    })
    .await;
    let door = Door::open(Availability::Ready(old.upstream(1)), |config| config.limits.in_flight = 10).await;
    let mut clients = Vec::new();
    for number in 0..50 {
        clients.push(posted(&door, STREAM).await);
        if number < 10 {
            old.open(number + 1).await;
        }
    }
    for client in clients.iter_mut().take(10).step_by(2) {
        client.until("old").await;
    }
    door.queued(40).await;
    old.kill().await;
    door.availability.send_replace(AWAY);
    door.queued(45).await;
    door.availability.send_replace(Availability::Ready(new.upstream(2)));
    let (mut whole, mut cut) = (0, 0);
    for mut client in clients {
        let text = client.answer().await.text();
        if text.contains("old") {
            assert!(text.contains("backend_lost") && !text.contains("[DONE]"), "{text}");
            cut += 1;
        } else {
            assert!(text.contains("new") && text.ends_with("data: [DONE]\n\n"), "{text}");
            whole += 1;
        }
    }
    assert_eq!((whole, cut), (45, 5));
}
