//! The gate tells the truth: only a ready model answers 200, and every other state says what to do.

use std::time::Duration;

use mlxctl::internals::gate::{Availability, Report};
use mlxctl::internals::registry::Start;

use crate::support::door::Door;
use crate::support::upstream::{Backend, answer_of};

#[tokio::test]
async fn only_a_ready_model_answers_200() {
    let loading = |hold| Availability::Loading { ready_at: None, hold };
    let cases = [
        (Availability::Offline, "offline", "model_offline", "60", "mlxctl start tiny"),
        (loading(true), "loading", "model_loading", "10", "is loading"),
        (loading(false), "loading", "model_loading", "10", "is loading"),
        (Availability::Draining, "draining", "model_draining", "10", "being stopped"),
        (
            Availability::Refused { why: "8 GB are missing".to_owned() },
            "refused",
            "model_refused",
            "30",
            "8 GB",
        ),
        (
            Availability::Failed { why: "it crashed 5 times".to_owned() },
            "failed",
            "model_failed",
            "60",
            "5 times",
        ),
    ];
    for (now, state, code, retry, text) in cases {
        let door = Door::open(now.clone(), |config| config.start = Start::Manual).await;
        for path in ["/v1/models", "/v1/models/tiny", "/v1/models/org%2Ftiny-4bit", "/health"] {
            let answer = door.get(path).await;
            assert_eq!(answer.status, 503, "{path} {now:?}");
            let error = answer.error();
            assert_eq!((&error["code"], &error["state"]), (&code.into(), &state.into()), "{path} {now:?}");
            assert_eq!(error["type"], "server_error");
            assert!(error["message"].as_str().unwrap().contains(text), "{error}");
            assert_eq!(answer.header("retry-after"), Some(retry), "{now:?}");
            // A client library must not wait for what only a person can change.
            let person = matches!(state, "offline" | "failed");
            assert_eq!(answer.header("x-should-retry"), person.then_some("false"), "{now:?}");
        }
        assert_eq!(door.get("/health").await.json()["state"], state);
        if !matches!(now, Availability::Loading { hold: true, .. }) {
            let answer = door.chat("").await;
            assert_eq!((answer.status, &answer.error()["code"]), (503, &code.into()), "{now:?}");
        }
    }
}

#[tokio::test]
async fn the_remaining_time_of_a_load_counts_down_by_itself() {
    let ready_at = Some(mlxctl::internals::host::now().after(Duration::from_secs(3600)));
    let door = Door::open(Availability::Loading { ready_at, hold: false }, |_| {}).await;
    let left = async || door.get("/health").await.header("retry-after").unwrap().parse::<u64>().unwrap();
    let first = left().await;
    tokio::time::sleep(Duration::from_millis(1001)).await;
    let second = left().await;
    assert!(first <= 3600 && second < first, "{first} {second}");
}

#[tokio::test]
async fn a_ready_model_is_listed_under_all_its_names() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let list = door.get("/v1/models").await;
    let ids: Vec<_> =
        list.json()["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!((list.status, ids), (200, vec!["tiny".into(), "small".into(), "org/tiny-4bit".into()]));
    assert_eq!(door.get("/v1/models/org/tiny-4bit").await.json()["id"], "org/tiny-4bit");
    let other = door.get("/v1/models/gpt-4").await;
    assert_eq!((other.status, &other.error()["code"]), (404, &"model_not_found".into()));
    assert_eq!(door.get("/health").await.json()["status"], "ok");
    assert!(backend.received().is_empty(), "the backend is not asked for any of it");
}

#[tokio::test]
async fn no_request_starts_a_manual_model() {
    let mut door = Door::open(Availability::Offline, |config| config.start = Start::Manual).await;
    for body in ["{\"model\": \"tiny\"}", "{\"model\": \"start\", \"force\": true}", "", "{"] {
        assert!(door.post("/v1/chat/completions", body).await.status >= 400);
    }
    for path in ["/v1/models/tiny/start", "/start", "/v1/start?model=tiny"] {
        assert!(matches!(door.post(path, "{}").await.status, 404 | 405), "{path}");
    }
    // A gate can tell its supervisor only where it listens and that a run looks bad.
    while let Ok((_, report)) = door.reports.try_recv() {
        assert!(matches!(report, Report::Listening { .. }), "{report:?}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_as_such() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let wrong = door.get("/v1/chat/completions").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    let wrong = door.post("/v1/models", "{}").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET")));
    assert_eq!(door.post("/v1/embeddings", "{}").await.error()["code"], "unknown_url");
    assert!(backend.received().is_empty());
}
