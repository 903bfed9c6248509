//! Requests in flight are counted, waited for, bounded, scheduled fairly, and ended when they must be.

use std::time::Duration;

use mlxctl::internals::gate::Availability;

use crate::support::PATIENCE;
use crate::support::door::{Client, Door};
use crate::support::upstream::{Backend, Step, answer_of, done, event, stream_head};

const STREAM: &str = ", \"stream\": true";

/// Answers each request when the test lets it.
async fn patient() -> Backend {
    Backend::start(|_, _| [vec![Step::Wait], answer_of(1)].concat()).await
}

async fn posted(door: &Door) -> Client {
    let mut client = door.client().await;
    client.chat("").await;
    client
}

#[tokio::test]
async fn draining_takes_nothing_new_and_waits_for_what_is_there() {
    let backend = patient().await;
    let door = Door::before(&backend).await;
    let mut under_way = posted(&door).await;
    backend.open(1).await;
    door.availability.send_replace(Availability::Draining);
    assert_eq!(door.chat("").await.error()["code"], "model_draining");
    let traffic = door.gate.traffic().clone();
    let drained = tokio::spawn(async move { traffic.drained().await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!drained.is_finished());
    backend.go_on();
    assert_eq!(under_way.answer().await.status, 200);
    drained.await.unwrap();
}

#[tokio::test]
async fn an_abort_ends_the_requests_of_its_generation_and_no_others() {
    let backend = Backend::start(|number, _| match number {
        0 => vec![stream_head(), event("one"), Step::Wait, done()],
        _ => [vec![Step::Wait], answer_of(1)].concat(),
    })
    .await;
    let door = Door::before(&backend).await;
    let mut begun = door.client().await;
    begun.chat(STREAM).await;
    begun.until("one").await;
    let mut waiting = posted(&door).await;
    backend.open(2).await;
    door.availability.send_replace(Availability::Ready(backend.upstream(2)));
    let mut newer = posted(&door).await;
    backend.open(3).await;
    door.gate.abort(1, "it hung for 5 minutes");
    let text = begun.answer().await.text();
    assert!(text.contains("it hung for 5 minutes") && text.contains("\"code\":\"aborted\""), "{text}");
    assert!(begun.closed().await);
    let answer = waiting.answer().await;
    assert_eq!((answer.status, &answer.error()["code"]), (503, &"aborted".into()));
    backend.open(1).await;
    backend.go_on();
    assert_eq!(newer.answer().await.status, 200);
}

#[tokio::test]
async fn a_bounded_number_is_at_the_backend_some_wait_and_the_rest_are_refused() {
    let backend = patient().await;
    let door = Door::open(Availability::Ready(backend.upstream(1)), |config| {
        config.limits.in_flight = 2;
        config.limits.queue = 3;
    })
    .await;
    let mut clients = Vec::new();
    for number in 0..5 {
        clients.push(posted(&door).await);
        if number >= 2 {
            door.queued(number - 1).await;
        } else {
            backend.open(usize::try_from(number).unwrap() + 1).await;
        }
    }
    let answer = door.chat("").await;
    assert_eq!((answer.status, &answer.error()["code"]), (429, &"queue_full".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!((backend.received().len(), door.gate.traffic().in_flight()), (2, 2));
    for mut client in clients {
        backend.go_on();
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn waiting_too_long_is_refused_and_leaving_the_queue_frees_a_place() {
    let backend = patient().await;
    let door = Door::open(Availability::Ready(backend.upstream(1)), |config| {
        config.limits.in_flight = 1;
        config.limits.queue = 1;
        config.limits.queue_timeout = Duration::from_millis(300);
    })
    .await;
    let mut first = posted(&door).await;
    backend.open(1).await;
    let left = posted(&door).await;
    door.queued(1).await;
    drop(left);
    door.queued(0).await;
    let answer = door.chat("").await;
    assert_eq!((answer.status, &answer.error()["code"]), (503, &"queue_timeout".into()));
    backend.go_on();
    assert_eq!(first.answer().await.status, 200);
}

#[tokio::test]
async fn a_plain_request_whose_client_left_keeps_its_turn_until_the_backend_is_done() {
    let backend = Backend::start(|number, _| match number {
        0 => [vec![Step::HungUp, Step::Compute], answer_of(9)].concat(),
        _ => answer_of(1),
    })
    .await;
    let door =
        Door::open(Availability::Ready(backend.upstream(1)), |config| config.limits.in_flight = 1).await;
    let left = posted(&door).await;
    backend.open(1).await;
    let mut next = posted(&door).await;
    door.queued(1).await;
    drop(left);
    backend.hung_up(1).await;
    // Long enough to send the next one, if it were admitted.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((backend.received().len(), door.gate.traffic().queued()), (1, 1));
    assert_eq!(door.gate.traffic().in_flight(), 1, "a drain waits for it");
    backend.go_on();
    assert_eq!(next.answer().await.status, 200);
    door.gate.traffic().drained().await;
}

#[tokio::test]
async fn an_abort_ends_a_request_whose_client_left_as_well() {
    let backend = Backend::start(|_, _| vec![Step::HungUp, Step::Compute]).await;
    let door = Door::before(&backend).await;
    let left = posted(&door).await;
    backend.open(1).await;
    drop(left);
    backend.hung_up(1).await;
    door.gate.abort(1, "it hung for 5 minutes");
    tokio::time::timeout(PATIENCE, door.gate.traffic().drained()).await.unwrap();
}

#[tokio::test]
async fn a_new_configuration_applies_from_the_next_request_on() {
    let backend = patient().await;
    let door = Door::before(&backend).await;
    let mut idle = door.client().await;
    idle.send("GET /v1/models/new HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 404);
    let mut under_way = posted(&door).await;
    backend.open(1).await;
    let mut config = door.config.clone();
    config.accepted.push("new".to_owned());
    config.context = Some(1);
    door.gate.reconfigure(config);
    idle.send("GET /v1/models/new HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200, "the connection stayed open");
    assert_eq!(door.chat("").await.error()["code"], "context_length_exceeded");
    backend.go_on();
    assert_eq!(under_way.answer().await.status, 200);
}

#[tokio::test]
async fn closing_sends_the_error_event_and_closes_every_connection() {
    let backend = Backend::start(|_, _| vec![stream_head(), event("one"), Step::Wait]).await;
    let door = Door::before(&backend).await;
    let (mut idle, mut begun) = (door.client().await, door.client().await);
    begun.chat(STREAM).await;
    begun.until("one").await;
    door.gate.abort(1, "the supervisor ends");
    let address = door.address;
    tokio::time::timeout(PATIENCE, door.gate.close()).await.unwrap();
    assert!(begun.answer().await.text().contains("the supervisor ends"));
    assert!(idle.closed().await);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
