//! Faults that are not tied to a place in the supervisor's code.

use std::io::Write;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::lane::Lane;
use crate::support::{control, signal};

type Fault = fn(&mut Lane);

/// Faults by name; slow ones are rare.
const FAULTS: &[(&str, Fault)] = &[
    ("supervisor killed at random", supervisor_at_random),
    ("supervisor killed at random", supervisor_at_random),
    ("backend killed", backend_killed),
    ("backend killed", backend_killed),
    ("supervisor and backends killed", all_killed),
    ("backend stopped (SIGSTOP)", backend_stopped),
    ("supervisor stopped for a moment", supervisor_paused),
    ("disk full", disk_full),
    ("no descriptors left", no_descriptors),
    ("exec step dies before its record", |lane| exec_dies(lane, "exec begun")),
    ("exec step dies after its record", |lane| exec_dies(lane, "exec recorded")),
    ("record lost", record_lost),
    ("record and spec damaged", files_damaged),
    ("registry broken", registry_broken),
    ("handed over", handed_over),
    ("ended and started", ended),
    ("garbage on the sockets", garbage),
    ("crash in mid-stream with a grandchild", crash_in_stream),
    ("reload while it works", reloads),
    ("listener lost", |lane| backend_of(lane, "l")),
    ("stranger on the port", |lane| backend_of(lane, "s")),
    ("backend that forked", forked),
];

pub fn any(lane: &mut Lane) -> String {
    let (name, fault) = FAULTS[lane.dice.roll(FAULTS.len())];
    fault(lane);
    name.to_owned()
}

fn pause(lane: &mut Lane, most: usize) {
    let milliseconds = lane.dice.roll(most) as u64;
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn supervisor_at_random(lane: &mut Lane) {
    match lane.dice.roll(4) {
        0 => lane.tell("start", "b", ""),
        1 => lane.tell("stop", "b", ""),
        2 => lane.tell("restart", "b", ""),
        _ => {}
    }
    pause(lane, 200);
    lane.kill_supervisor();
    lane.instance.serve_until(None);
}

fn backend_killed(lane: &mut Lane) {
    let name = *lane.dice.pick(&["a", "g", "b"]);
    if lane.model(name).is_some_and(|model| model["pid"].is_number()) {
        lane.kill_backend(name);
    }
}

fn all_killed(lane: &mut Lane) {
    lane.kill_supervisor();
    for pid in super::promises::backends(&lane.instance).into_values().flatten() {
        signal(pid, Signal::SIGKILL);
    }
    lane.instance.serve_until(None);
}

fn backend_stopped(lane: &mut Lane) {
    if let Some(pid) = lane.model("a").and_then(|model| model["pid"].as_i64()) {
        signal(i32::try_from(pid).unwrap(), Signal::SIGSTOP);
        lane.until("a", |model| model["pid"] != pid);
    }
}

fn supervisor_paused(lane: &mut Lane) {
    let pid = lane.instance.supervisor_pid();
    signal(pid, Signal::SIGSTOP);
    if lane.dice.roll(2) == 0 {
        for pid in super::promises::backends(&lane.instance).into_values().flatten().take(1) {
            signal(pid, Signal::SIGKILL);
        }
    }
    pause(lane, 300);
    signal(pid, Signal::SIGCONT);
}

fn disk_full(lane: &mut Lane) {
    lane.limit("fsize=0:");
    lane.kill_backend("g");
    lane.until("g", |model| {
        model["state"] == "backoff" && model["reason"].as_str().is_some_and(|why| why.contains("large"))
    });
    let status = lane.status().expect("a supervisor that keeps running");
    let waiting = status["supervisor"]["waiting_for"].to_string();
    assert!(waiting.contains("cannot be written") || waiting.contains("cannot write"), "{waiting}");
    lane.limit("fsize=unlimited:");
    // It stops saying so once it has checked again.
}

fn no_descriptors(lane: &mut Lane) {
    let pid = lane.instance.supervisor_pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(20, Iterator::count);
    let room = lane.dice.roll(4);
    lane.limit(&format!("nofile={}:", open + room));
    for pid in super::promises::backends(&lane.instance).into_values().flatten() {
        signal(pid, Signal::SIGKILL);
    }
    lane.tell("start", "b", "");
    pause(lane, 600);
    lane.limit("nofile=4096:");
}

fn exec_dies(lane: &mut Lane, place: &str) {
    lane.kill_supervisor();
    lane.instance.serve_until(Some(place));
    lane.kill_backend("g");
    lane.until("g", |model| model["state"] == "backoff");
    lane.kill_supervisor();
    lane.instance.serve_until(None);
}

fn record_lost(lane: &mut Lane) {
    lane.kill_supervisor();
    let name = *lane.dice.pick(&["a", "g", "b"]);
    let _ = std::fs::remove_file(lane.instance.root().join(format!("run/{name}.live.json")));
    lane.instance.serve_until(None);
}

fn files_damaged(lane: &mut Lane) {
    lane.kill_supervisor();
    let name = *lane.dice.pick(&["a", "g", "b"]);
    for file in ["live.json", "json", "kept.json"] {
        let path = lane.instance.root().join(format!("run/{name}.{file}"));
        if let Ok(bytes) = std::fs::read(&path) {
            let length = lane.dice.roll(bytes.len().max(1));
            std::fs::write(path, &bytes[..length]).unwrap();
        }
    }
    let learned = lane.instance.root().join("state/learned.json");
    if lane.dice.roll(2) == 0 && learned.exists() {
        std::fs::write(learned, "{").unwrap();
    }
    lane.instance.serve_until(None);
}

fn registry_broken(lane: &mut Lane) {
    std::fs::write(lane.instance.config(), "[[model]\n").unwrap();
    signal(lane.instance.supervisor_pid(), Signal::SIGHUP);
    pause(lane, 50);
    lane.instance.write_registry();
    signal(lane.instance.supervisor_pid(), Signal::SIGHUP);
}

fn handed_over(lane: &mut Lane) {
    control(&lane.socket(), "POST", "/v1/handover");
    assert_eq!(lane.instance.wait_for_end(), Some(0));
    lane.instance.serve_until(None);
}

fn ended(lane: &mut Lane) {
    assert_eq!(lane.instance.end(), Some(0));
    assert!(super::promises::backends(&lane.instance).is_empty());
    lane.instance.serve_until(None);
}

fn garbage(lane: &mut Lane) {
    let noise: Vec<u8> = (0..2000).map(|_| u8::try_from(lane.dice.roll(256)).unwrap()).collect();
    for socket in ["mlxctl.sock", "a.sock"] {
        if let Ok(mut stream) =
            std::os::unix::net::UnixStream::connect(lane.instance.root().join("run").join(socket))
        {
            let _ = stream.write_all(&noise);
        }
    }
    if let Ok(mut stream) = std::net::TcpStream::connect(lane.instance.gate("a")) {
        let _ = stream.write_all(&noise);
    }
}

fn crash_in_stream(lane: &mut Lane) {
    lane.tell("start", "e", "");
    if lane.until_state("e", &["ready"]).is_some() {
        lane.chat("e", 9);
        lane.until_state("e", &["failed"]);
    }
}

fn reloads(lane: &mut Lane) {
    for _ in 0..lane.dice.roll(4) {
        signal(lane.instance.supervisor_pid(), Signal::SIGHUP);
        pause(lane, 20);
    }
}

/// A manual model whose server becomes useless soon after it was ready: that is detected and it is stopped, well within
/// the minute after which it would count as a hang.
fn backend_of(lane: &mut Lane, name: &str) {
    lane.tell("start", name, "");
    if lane.until_state(name, &["ready"]).is_some() {
        let failed = lane.until_state(name, &["failed"]).expect("it is found");
        let reason = failed["reason"].as_str().unwrap();
        let wanted = if name == "l" { "no longer listens" } else { "another process answers" };
        assert!(reason.contains(wanted), "{reason}");
    }
}

/// The supervisor dies while a backend has children with the same arguments, and sometimes the record is lost.
fn forked(lane: &mut Lane) {
    lane.tell("start", "f", "");
    let pid = lane.until_state("f", &["ready"]).and_then(|model| model["pid"].as_i64());
    lane.kill_supervisor();
    if lane.dice.roll(2) == 0 {
        let _ = std::fs::remove_file(lane.instance.root().join("run/f.live.json"));
    }
    lane.instance.serve_until(None);
    let again = lane.until_state("f", &["ready"]).and_then(|model| model["pid"].as_i64());
    assert!(pid.is_none() || again.is_none() || pid == again, "{pid:?} became {again:?}");
    lane.tell("stop", "f", "");
    lane.until_state("f", &["stopped"]);
}
