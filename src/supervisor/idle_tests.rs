//! Manual models that stop by themselves, with the clock under the test's control.

use std::time::Duration;

use super::clock_tests::events;
use super::trim_tests::ready_with;
use super::{Handle, Options, Supervisor};
use crate::api::{ErrorCode, ModelStatus, StartRequest, StateName};
use crate::registry::Registry;

const HOUR: Duration = Duration::from_secs(3600);
/// Two intervals of the regular upkeep: one for the decision, one for the stop.
const LOOKS: Duration = Duration::from_secs(21);

async fn model(handle: &Handle) -> ModelStatus {
    handle.model("m").await.unwrap()
}

fn lent(seconds: f64) -> StartRequest {
    StartRequest { for_seconds: Some(seconds), wait: true, ..StartRequest::default() }
}

async fn notices(handle: &Handle) -> Vec<String> {
    events(handle, "stops_soon").await
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_model_is_announced_stopped_and_stays_down() {
    let adopted = ready_with("stop = { idle = \"2h\" }").await;
    let handle = &adopted.handle;
    tokio::time::sleep(HOUR).await;
    let seen = model(handle).await;
    let (idle, left) = (seen.idle_seconds.unwrap(), seen.stops_in_seconds.unwrap());
    assert!((3590.0..3610.0).contains(&idle) && (7190.0..=7201.0).contains(&(idle + left)), "{idle} {left}");
    assert_eq!(notices(handle).await, [""; 0]);
    tokio::time::sleep(HOUR - Duration::from_secs(700)).await;
    let told = notices(handle).await;
    assert!(told.len() == 1 && told[0].starts_with("stops in 1") && told[0].contains("unless"), "{told:?}");
    assert_eq!(model(handle).await.state, StateName::Ready);
    tokio::time::sleep(Duration::from_secs(700) + LOOKS).await;
    let seen = model(handle).await;
    assert_eq!(seen.state, StateName::Stopped);
    assert_eq!(seen.reason.as_deref(), Some("idle for 2h (stop.idle)"));
    assert_eq!((seen.idle_seconds, seen.stops_in_seconds), (None, None));
    tokio::time::sleep(HOUR * 48).await;
    assert_eq!(model(handle).await.state, StateName::Stopped);
    assert_eq!(notices(handle).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_by_a_person_restarts_the_whole_time() {
    let adopted = ready_with("stop = { idle = \"2h\" }").await;
    tokio::time::sleep(HOUR * 2 - Duration::from_secs(60)).await;
    adopted.handle.start("m", StartRequest::default()).await.unwrap();
    tokio::time::sleep(HOUR).await;
    let seen = model(&adopted.handle).await;
    assert_eq!(seen.state, StateName::Ready);
    assert!((3590.0..3610.0).contains(&seen.stops_in_seconds.unwrap()), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_keeps_the_model_up() {
    let adopted = ready_with(
        "stop = { idle = \"2h\" }\nlimits = { queue_timeout = \"10h\" }\nhealth = { hang_after = \"20h\" }",
    )
    .await;
    let client = adopted.begin_chat().await;
    tokio::time::sleep(HOUR * 5).await;
    let seen = model(&adopted.handle).await;
    assert_eq!((seen.state, seen.idle_seconds, seen.stops_in_seconds), (StateName::Ready, None, None));

    // The client leaves, and the backend hangs on its request for ever, which does not count as use.
    drop(client);
    tokio::time::sleep(HOUR).await;
    let seen = model(&adopted.handle).await;
    assert_eq!((seen.state, seen.traffic.in_flight), (StateName::Ready, 1));
    assert!((3570.0..3630.0).contains(&seen.idle_seconds.unwrap()), "{seen:?}");
    tokio::time::sleep(HOUR + Duration::from_secs(60)).await;
    let seen = model(&adopted.handle).await;
    assert_eq!(seen.reason.as_deref(), Some("idle for 2h (stop.idle)"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_time_given_by_a_person_outlives_a_hand_over() {
    let adopted = ready_with("stop = { idle = \"1h\" }").await;
    let refused = adopted.handle.start("m", lent(0.0)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadRequest);
    adopted.handle.start("m", lent(3.0 * 3600.0)).await.unwrap();
    tokio::time::sleep(HOUR * 2).await;
    assert_eq!(model(&adopted.handle).await.state, StateName::Ready, "idle for longer than `idle`");
    adopted.handle.hand_over();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let file = adopted.folder.path().join("models.toml");
    let registry = Registry::parse(&file, &adopted.text).unwrap();
    let options = Options { registry, host: adopted.host.clone(), binary: "/nonexistent".into() };
    let next = Supervisor::new(options).unwrap();
    let handle = next.handle();
    tokio::spawn(next.run());
    while model(&handle).await.state != StateName::Ready {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = model(&handle).await.stops_in_seconds.unwrap();
    assert!((3500.0..3600.0).contains(&left), "{left}");
    tokio::time::sleep(HOUR + LOOKS).await;
    let seen = model(&handle).await;
    assert_eq!(seen.reason.as_deref(), Some("its time of 3h is over"), "{seen:?}");
    assert_eq!(seen.state, StateName::Stopped);
    assert_eq!(notices(&handle).await.len(), 1);
}
