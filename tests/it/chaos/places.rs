//! The places at which a supervisor can die (`src/fault.rs`), and how to get it to each.

use nix::sys::signal::Signal;

use super::lane::Lane;
use crate::support::signal;

/// Every transition between two states that a step can make.
const WAYS: &[&str] = &[
    "stopped spawning",
    "stopped loading",
    "stopped backoff",
    "spawning loading",
    "spawning backoff",
    "spawning failed",
    "loading ready",
    "loading stopping",
    "loading backoff",
    "loading failed",
    "ready draining",
    "ready stopping",
    "ready spawning",
    "ready backoff",
    "ready failed",
    "draining stopping",
    "draining stopped",
    "draining spawning",
    "stopping stopped",
    "stopping spawning",
    "stopping backoff",
    "stopping failed",
    "backoff spawning",
    "backoff stopped",
    "backoff failed",
    "failed spawning",
    "failed stopped",
];

/// Before a transition's effects are carried out, after it, and between the parts of a spawn.
pub fn all() -> Vec<String> {
    let ways = WAYS.iter().flat_map(|way| [format!("before {way}"), format!("after {way}")]);
    ways.chain(["spawn cleared", "spawn written", "spawn made"].map(str::to_owned)).collect()
}

/// Gets the supervisor to this place; returns whether it died there.
pub fn provoke(lane: &mut Lane, place: &str) -> bool {
    let way = place.split_once(' ').map_or(place, |(_, way)| way);
    // Each step ends early when the supervisor is gone.
    let _ = if place.starts_with("spawn ") { start(lane, "b") } else { go(lane, way) };
    let began = std::time::Instant::now();
    while began.elapsed() < crate::support::PATIENCE / 6 {
        if lane.instance.supervisor_gone() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    false
}

const WAIT: &str = r#"{"wait":true}"#;
const NOW: &str = r#"{"now":true}"#;

/// A manual model from being down.
fn start(lane: &mut Lane, name: &str) -> Option<()> {
    down(lane, name)?;
    lane.tell("start", name, WAIT);
    Some(())
}

fn down(lane: &mut Lane, name: &str) -> Option<()> {
    let model = lane.until(name, |_| true)?;
    if model["state"] != "stopped" && model["state"] != "failed" {
        lane.tell("stop", name, NOW);
        lane.until_state(name, &["stopped", "failed"])?;
    }
    Some(())
}

fn ready(lane: &mut Lane, name: &str) -> Option<()> {
    let model = lane.until(name, |_| true)?;
    if model["state"] != "ready" && model["start"] == "manual" {
        lane.tell("start", name, WAIT);
    }
    lane.until_state(name, &["ready"])?;
    Some(())
}

/// A manual model with an answer in progress.
fn busy(lane: &mut Lane, name: &str) -> Option<()> {
    ready(lane, name)?;
    lane.chat(name, 400);
    lane.until(name, |model| model["traffic"]["in_flight"] != 0)?;
    Some(())
}

fn failed(lane: &mut Lane, name: &str) -> Option<()> {
    let model = lane.until(name, |_| true)?;
    if model["state"] != "failed" {
        lane.tell("start", name, WAIT);
        lane.until_state(name, &["failed"])?;
    }
    Some(())
}

fn go(lane: &mut Lane, way: &str) -> Option<()> {
    match way {
        // Starting is enough.
        "stopped loading" | "stopped backoff" => {}
        "stopped spawning" | "spawning loading" | "loading ready" => start(lane, "b")?,
        "spawning backoff" => {
            ready(lane, "g")?;
            lane.limit("fsize=0:");
            lane.kill_backend("g")?;
        }
        "spawning failed" => {
            down(lane, "b")?;
            lane.limit("fsize=0:");
            lane.tell("start", "b", WAIT);
        }
        "loading stopping" => {
            start(lane, "c")?;
            lane.until_state("c", &["loading"])?;
            lane.tell("stop", "c", "");
        }
        "loading backoff" => {
            lane.kill_backend("g")?;
            lane.until_state("g", &["loading"])?;
            lane.kill_backend("g")?;
        }
        "loading failed" => start(lane, "d")?,
        "ready draining" | "draining stopping" | "stopping stopped" => {
            ready(lane, "b")?;
            lane.tell("stop", "b", "");
        }
        "ready stopping" => {
            ready(lane, "b")?;
            lane.tell("stop", "b", NOW);
        }
        "ready spawning" => {
            ready(lane, "a")?;
            std::thread::sleep(std::time::Duration::from_millis(150));
            lane.kill_backend("a")?;
        }
        "ready backoff" | "backoff spawning" => {
            ready(lane, "g")?;
            lane.kill_backend("g")?;
        }
        "ready failed" => {
            ready(lane, "b")?;
            lane.kill_backend("b")?;
        }
        "draining stopped" | "draining spawning" => {
            busy(lane, "b")?;
            lane.tell(if way == "draining stopped" { "stop" } else { "restart" }, "b", "");
            lane.until_state("b", &["draining"])?;
            lane.kill_backend("b")?;
        }
        "stopping spawning" => {
            ready(lane, "b")?;
            lane.tell("restart", "b", "");
        }
        "stopping backoff" => {
            ready(lane, "g")?;
            let pid = lane.model("g")?["pid"].as_i64()?;
            signal(i32::try_from(pid).ok()?, Signal::SIGSTOP);
        }
        "stopping failed" => {
            ready(lane, "h")?;
            lane.chat("h", 5);
        }
        "backoff stopped" => {
            ready(lane, "g")?;
            lane.kill_backend("g")?;
            lane.until_state("g", &["backoff"])?;
            lane.tell("stop", "g", "");
        }
        "backoff failed" => {
            ready(lane, "g")?;
            let registry = std::fs::read_to_string(lane.instance.config()).ok()?;
            let (before, after) = registry.split_once("name = \"g\"")?;
            let manual = format!("{before}name = \"g\"{}", after.replacen("\"always\"", "\"manual\"", 1));
            std::fs::write(lane.instance.config(), manual).ok()?;
            lane.kill_backend("g")?;
            lane.until_state("g", &["backoff"])?;
            signal(lane.instance.supervisor_pid(), Signal::SIGHUP);
        }
        "failed spawning" => {
            failed(lane, "d")?;
            lane.tell("start", "d", WAIT);
        }
        "failed stopped" => {
            failed(lane, "d")?;
            lane.tell("stop", "d", "");
        }
        other => panic!("unknown transition {other}"),
    }
    Some(())
}

/// What a fault left on disk that no supervisor could repair.
pub fn put_right(lane: &mut Lane) {
    lane.instance.write_registry();
}
