//! Full disks and growing logs: nothing stops, nothing is hidden, nothing is written twice.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Entry, Instance, PATIENCE, http, signal, skipped};

const CHAT: &str = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":4}"#;

/// The content of a log and of its rotated files, oldest first.
fn whole_log(log: &Path) -> String {
    let read = |n: u32| {
        let name = if n == 0 { log.display().to_string() } else { format!("{}.{n}", log.display()) };
        std::fs::read_to_string(name).unwrap_or_default()
    };
    (0..=3).rev().map(read).collect()
}

#[test]
fn a_log_is_rotated_while_it_is_written_and_no_line_is_lost_or_repeated() {
    let lines = 16_000;
    let fault = format!("chatter={lines}");
    let instance = Instance::fake(vec![Entry::new("m", "always").faults(&[&fault])]).serve();
    let log = instance.root().join("logs/m.log");
    let last = format!("line {} ", lines - 1);
    let began = Instant::now();
    while !whole_log(&log).contains(&last) || !Path::new(&format!("{}.1", log.display())).exists() {
        assert!(began.elapsed() < PATIENCE, "not rotated: {}", instance.serve_log());
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = whole_log(&log);
    let numbers: Vec<usize> =
        text.lines().filter_map(|line| line.strip_prefix("line ")?.split(' ').next()?.parse().ok()).collect();
    // A burst is cut to its last 10 MB once it is over; from there on, every line occurs once.
    let first = *numbers.first().unwrap();
    assert!((lines - first) * 1000 >= 9_900_000, "{first} lines were cut");
    let wanted: Vec<usize> = (first..lines).collect();
    assert!(numbers == wanted, "{} lines, the first wrong one at {:?}", numbers.len(), {
        numbers.iter().zip(&wanted).position(|(found, wanted)| found != wanted)
    });
    assert!(text.lines().filter(|line| line.starts_with("line ")).all(|line| line.len() == 999));
    let wait = Instant::now();
    while !log.exists() {
        assert!(wait.elapsed() < PATIENCE, "the launcher opened no new log");
        std::thread::sleep(Duration::from_millis(50));
    }
    instance.wait_state("m", "ready");
}

#[test]
fn the_supervisors_own_log_is_rotated_too_and_continues_in_a_new_file() {
    let mut instance = Instance::fake(vec![Entry::new("m", "manual")]);
    let logs = instance.root().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let (log, aside) = (logs.join("mlxctl.log"), logs.join("mlxctl.log.1"));
    std::fs::write(&log, vec![b'x'; 10_000_001]).unwrap();
    // As launchd does: opened before it starts, for appending.
    let redirected = format!("exec \"$@\" >>{0} 2>&1", log.display());
    instance.serve_within(&["sh", "-c", &redirected, "sh"]);
    let began = Instant::now();
    while !aside.exists() {
        assert!(began.elapsed() < PATIENCE, "it was not rotated");
        std::thread::sleep(Duration::from_millis(20));
    }
    instance.expect(0, &["start", "m"]);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("spawned"), "{text}");
    assert!(std::fs::metadata(aside).unwrap().len() >= 9_900_000, "all but what is cut from its beginning");
}

/// A supervisor in a mount namespace in which `state` and `logs` are small disks of their own. `None`: this system does
/// not allow mounting; `chaos` limits file sizes there and everywhere else.
fn on_small_disks(mut instance: Instance) -> Option<Instance> {
    let allowed = Command::new("unshare").args(["-rm", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        skipped("a full disk", "this system does not allow mounting a file system");
        return None;
    }
    for folder in ["state", "logs"] {
        std::fs::create_dir(instance.root().join(folder)).unwrap();
    }
    let script = format!(
        "mount -t tmpfs -o size=64k,mode=0755 none {0}/state && mount -t tmpfs -o size=64k,mode=0755 none {0}/logs && exec \"$@\"",
        instance.root().display()
    );
    instance.serve_within(&["unshare", "-rm", "sh", "-c", &script, "sh"]);
    Some(instance)
}

#[test]
fn a_full_disk_is_reported_stops_neither_supervisor_nor_model_and_is_recovered_from() {
    let quick = "restart = { backoff_min = \"10ms\", backoff_max = \"20ms\" }";
    let Some(instance) = on_small_disks(Instance::real(vec![Entry::new("m", "always").with(quick)])) else {
        return;
    };
    instance.wait_state("m", "ready");
    // The disks as the supervisor sees them.
    let seen = |folder: &str| {
        let root = instance.root();
        Path::new(&format!("/proc/{}/root{}", instance.supervisor_pid(), root.display())).join(folder)
    };
    for folder in ["state", "logs"] {
        // Ends with the error that is expected.
        let _ = std::fs::write(seen(folder).join("filler"), vec![b'x'; 1 << 20]);
    }
    let pid = instance.pid("m");
    assert_eq!(http(instance.gate("m"), "POST", "/v1/chat/completions", CHAT).0, 200, "logs are full");
    signal(pid, nix::sys::signal::Signal::SIGKILL);
    instance.wait_for("m", |model| model["state"] == "ready" && model["pid"] != pid);
    assert_eq!(http(instance.gate("m"), "POST", "/v1/chat/completions", CHAT).0, 200);
    let waiting = || instance.status()["supervisor"]["waiting_for"].to_string();
    assert!(waiting().contains("No space left"), "{}", waiting());
    for folder in ["state", "logs"] {
        std::fs::remove_file(seen(folder).join("filler")).unwrap();
    }
    let began = Instant::now();
    while waiting() != "[]" {
        assert!(began.elapsed() < PATIENCE, "{}", waiting());
        std::thread::sleep(Duration::from_millis(100));
    }
    let history = std::fs::read_to_string(seen("state").join("events.jsonl")).unwrap();
    let numbers: Vec<u64> = history
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["seq"].as_u64())
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "no event is missing");
}

/// A supervisor whose models keep their prompts on a disk of their own, mounted with these options.
fn with_prompts_on(options: &str) -> Option<Instance> {
    let mut instance = Instance::real(vec![Entry::new("m", "always")]);
    if !Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|output| output.status.success()) {
        skipped("a disk for kept prompts", "this system does not allow mounting a file system");
        return None;
    }
    let folder = instance.root().join("state/prompts");
    std::fs::create_dir_all(&folder).unwrap();
    let script = format!("mount -t tmpfs -o {options} none {} && exec \"$@\"", folder.display());
    instance.serve_within(&["unshare", "-rm", "sh", "-c", &script, "sh"]);
    instance.wait_state("m", "ready");
    Some(instance)
}

#[test]
fn kept_prompts_on_a_full_or_read_only_disk_are_reported_and_serving_continues() {
    for (options, said) in [("size=1m,mode=0700", "is short"), ("ro,mode=0700", "Read-only file system")] {
        let Some(instance) = with_prompts_on(options) else { return };
        let messages = serde_json::json!([{"role": "user", "content": "What are you? ".repeat(40)}]);
        let body = serde_json::json!({"messages": messages, "max_tokens": 6, "temperature": 0}).to_string();
        let ask = || {
            let (status, answer) = http(instance.gate("m"), "POST", "/v1/chat/completions", &body);
            assert_eq!(status, 200, "{answer}");
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            answer["choices"][0]["message"]["content"].clone()
        };
        let first = ask();
        instance.expect(0, &["trim", "m"]);
        let trouble = instance.model("m")["memory"]["prompt_store"]["trouble"].to_string();
        assert!(trouble.contains(said), "{options}: {trouble}");
        assert_eq!(ask(), first);
        let log = std::fs::read_to_string(instance.root().join("logs/m.log")).unwrap();
        assert_eq!(
            log.matches("warning: kept prompts").count() + log.matches("warning: the disk").count(),
            1
        );
    }
}
