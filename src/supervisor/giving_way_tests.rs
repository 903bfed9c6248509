//! A game that starts and ends, with the clock under the test's control.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::clock_tests::{Adopted, events};
use super::trim_tests::{Asked, ready};
use crate::api::SupervisorStatus;

/// Longer than the interval of health checks, with which programs are checked as well.
const LOOK: Duration = Duration::from_secs(11);

fn paces(asked: &Asked) -> Vec<String> {
    asked.lock().unwrap().iter().filter_map(|op| op.strip_prefix("pace ").map(str::to_owned)).collect()
}

async fn supervisor(adopted: &Adopted) -> SupervisorStatus {
    adopted.handle.status().await.unwrap().supervisor.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_launcher_is_paced_exactly_while_the_game_runs() {
    let (adopted, asked) = ready("yield = [\"Civilization V\"]\npace = \"50%\"").await;
    assert_eq!(paces(&asked), ["null"], "an earlier supervisor may have set another pace");
    adopted.host.set_running(&["Civilization V"]);
    tokio::time::sleep(LOOK).await;
    assert_eq!(paces(&asked), ["null", "50"]);
    let seen = supervisor(&adopted).await;
    assert_eq!((seen.pace_percent, seen.holding), (Some(50), false));
    // The game's launcher restarts it.
    adopted.host.set_running(&[]);
    tokio::time::sleep(LOOK).await;
    adopted.host.set_running(&["Civilization V"]);
    tokio::time::sleep(LOOK * 2).await;
    assert_eq!(paces(&asked), ["null", "50"], "no flapping");
    adopted.host.set_running(&[]);
    tokio::time::sleep(LOOK * 3).await;
    assert_eq!(paces(&asked), ["null", "50", "null"]);
    assert_eq!(supervisor(&adopted).await.pace_percent, None);
    let told = events(&adopted.handle, "pace").await;
    assert_eq!(
        told,
        [
            "pacing for Civilization V: the models work 50% of the time",
            "no longer pacing: the models work all of the time"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_pace_applies_at_once_while_the_game_runs() {
    let (adopted, asked) = ready("yield = [\"Civ5XP\"]\npace = \"50%\"").await;
    adopted.host.set_running(&["Civ5XP"]);
    tokio::time::sleep(LOOK).await;
    let reload = |text: String| {
        let file = adopted.folder.path().join("models.toml");
        crate::registry::Registry::parse(&file, &text).map(Box::new).map_err(|problems| problems.plain())
    };
    let slower = adopted.text.replace("50%", "25%");
    adopted.handle.reload(reload(slower), false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(paces(&asked), ["null", "50", "25"]);
}

#[tokio::test(start_paused = true)]
async fn requests_wait_while_the_game_runs_and_continue_afterwards() {
    let (adopted, _asked) = ready("yield = [\"Civ5XP\"]\nyield_actions = [\"hold\"]").await;
    adopted.host.set_running(&["Civ5XP"]);
    tokio::time::sleep(LOOK).await;
    let seen = supervisor(&adopted).await;
    assert_eq!((seen.pace_percent, seen.holding), (None, true));
    let mut client = adopted.post("/v1/completions", r#"{"prompt":"x"}"#).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let traffic = adopted.handle.model("m").await.unwrap().traffic;
    assert_eq!((traffic.counts.requests, traffic.in_flight), (1, 0), "it waits");
    adopted.host.set_running(&[]);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // It waits as long as in any queue, and is then refused with a retry time.
    adopted.host.set_running(&["Civ5XP"]);
    tokio::time::sleep(LOOK).await;
    let mut client = adopted.post("/v1/completions", r#"{"prompt":"x"}"#).await;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("model_held"), "{answer}");
    assert!(answer.contains("retry-after: 10") && answer.contains("when Civ5XP has ended"), "{answer}");
    assert_eq!(events(&adopted.handle, "hold").await.len(), 3);
}
