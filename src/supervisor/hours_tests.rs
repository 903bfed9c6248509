//! An always-on model outside its hours, with the clock and the wall time under the test's control.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::clock_tests::Adopted;
use super::trim_tests::ready_with;
use crate::api::{ModelStatus, StateName, StopRequest};

const MINUTE: Duration = Duration::from_secs(60);
/// Two intervals of the regular upkeep: one for the decision, one for the stop.
const LOOKS: Duration = Duration::from_secs(21);

async fn by_day() -> Adopted {
    ready_with("start = \"always\"\nhours = [\"08:00-12:00\", \"13:00-23:30\"]").await
}

async fn model(adopted: &Adopted) -> ModelStatus {
    adopted.handle.model("m").await.unwrap()
}

async fn ask(adopted: &Adopted) -> String {
    let mut answer = String::new();
    let mut client = adopted.post("/v1/completions", r#"{"prompt":"x"}"#).await;
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn outside_its_hours_a_model_sleeps_reports_so_and_wakes_by_itself() {
    let adopted = by_day().await;
    adopted.host.set_local_time(23, 20);
    tokio::time::sleep(MINUTE * 10 - Duration::from_secs(2)).await;
    assert_eq!(model(&adopted).await.state, StateName::Ready);
    // On the minute, not with the next regular upkeep.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let seen = model(&adopted).await;
    assert_eq!((seen.state, seen.asleep_until.as_deref()), (StateName::Stopped, Some("08:00")));
    assert_eq!((seen.reason.as_deref(), seen.restarts), (Some("asleep until 08:00"), 0));
    tokio::time::sleep(MINUTE * 30).await;
    let answer = ask(&adopted).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("model_asleep"), "{answer}");
    assert!(answer.contains("asleep until 08:00 (its hours are 08:00-12:00, 13:00-23:30)"), "{answer}");
    assert!(answer.contains("retry-after: ") && answer.contains("x-should-retry: false"), "{answer}");
    tokio::time::sleep(MINUTE * 480).await;
    let seen = model(&adopted).await;
    // Its files are missing, so it gets no further.
    assert_eq!((seen.state, seen.asleep_until), (StateName::Backoff, None));
    let events = adopted.handle.events(None, 1000).await;
    assert!(events.iter().all(|event| !["crashed", "failed", "quarantine"].contains(&&*event.kind)));
}

#[tokio::test(start_paused = true)]
async fn a_changed_clock_is_noticed_by_the_next_upkeep() {
    let adopted = by_day().await;
    adopted.host.set_local_time(10, 0);
    tokio::time::sleep(LOOKS).await;
    assert_eq!(model(&adopted).await.state, StateName::Ready);
    // Another time zone.
    adopted.host.set_local_time(2, 0);
    tokio::time::sleep(LOOKS).await;
    assert_eq!(model(&adopted).await.asleep_until.as_deref(), Some("08:00"));
    // The end of summer time only delays it.
    adopted.host.set_local_time(1, 0);
    tokio::time::sleep(LOOKS).await;
    assert_eq!(model(&adopted).await.asleep_until.as_deref(), Some("08:00"));
    // The lid was closed for the night.
    adopted.host.sleep(MINUTE * 8 * 60);
    tokio::time::sleep(LOOKS * 2).await;
    assert_ne!(model(&adopted).await.state, StateName::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_model_stopped_by_a_person_stays_down_when_its_hours_begin() {
    let adopted = by_day().await;
    adopted.host.set_local_time(12, 30);
    tokio::time::sleep(LOOKS).await;
    assert_eq!(model(&adopted).await.asleep_until.as_deref(), Some("13:00"));
    adopted.handle.stop("m", StopRequest::default()).await.unwrap();
    assert_eq!(model(&adopted).await.reason.as_deref(), Some("stopped by hand"));
    tokio::time::sleep(MINUTE * 60).await;
    let seen = model(&adopted).await;
    assert_eq!((seen.state, seen.reason.as_deref()), (StateName::Stopped, Some("stopped by hand")));
}
