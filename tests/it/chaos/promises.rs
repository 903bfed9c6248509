//! What holds after every fault.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::lane::Lane;
use crate::support::{Instance, PATIENCE};

/// The live backends of an instance by model, only leaders of their groups: more than one is a broken promise.
pub fn backends(instance: &Instance) -> BTreeMap<String, Vec<i32>> {
    let run = instance.root().join("run");
    let mut found: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for marked in mlxctl::internals::host::system().find_by_argument(&run.to_string_lossy()) {
        if marked.session != marked.who.pid {
            continue;
        }
        let launcher = marked.arguments.iter().position(|argument| argument.ends_with("/launcher.py"));
        let exec = marked.arguments.iter().position(|argument| argument == "__exec");
        let Some(at) = launcher.or(exec) else { continue };
        let spec = std::path::Path::new(&marked.arguments[at + 1]);
        let model = spec.file_stem().unwrap().to_string_lossy().into_owned();
        found.entry(model).or_default().push(marked.who.pid);
    }
    found
}

/// Waits until everything is as promised; what must hold at every moment is checked all the time.
pub fn hold(lane: &mut Lane, after: &str) {
    let began = Instant::now();
    loop {
        assert!(!lane.instance.supervisor_gone(), "the supervisor ended by itself {after}\n{}", tail(lane));
        let live = backends(&lane.instance);
        let twice: Vec<_> = live.iter().filter(|(_, pids)| pids.len() > 1).collect();
        assert!(twice.is_empty(), "two backends of one model {after}: {twice:?}\n{}", tail(lane));
        let broken = match lane.status() {
            Some(status) => broken(lane, &status),
            None => vec!["no status".to_owned()],
        };
        if broken.is_empty() {
            return;
        }
        if began.elapsed() > PATIENCE {
            panic!("{after}: {broken:#?}\n{}", tail(lane));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tail(lane: &Lane) -> String {
    let log = lane.instance.serve_log();
    let lines: Vec<_> = log.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn broken(lane: &mut Lane, status: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let mut say = |what: String| broken.push(what);
    if status["supervisor"]["pid"] != lane.instance.supervisor_pid() {
        say("another supervisor answers".into());
    }
    let live = backends(&lane.instance);
    let known: BTreeSet<i64> = models(status).filter_map(|model| model["pid"].as_i64()).collect();
    let there: BTreeSet<i64> = live.values().flatten().map(|pid| i64::from(*pid)).collect();
    if known != there {
        say(format!("status knows {known:?}, there are {there:?}"));
    }
    let reserved = status["budget"]["models_bytes"].as_u64().unwrap();
    let granted: u64 = models(status)
        .filter(|model| model["pid"].is_i64())
        .filter_map(|model| model["memory"]["estimate_bytes"].as_u64())
        .sum();
    if reserved != granted {
        say(format!("{reserved} bytes are reserved, {granted} were granted to {} runs", known.len()));
    }
    let events = lane.instance.events_so_far();
    for model in models(status) {
        let name = model["name"].as_str().unwrap();
        if let Some(why) = wrong(model) {
            say(format!("{name}: {why}"));
        }
        if model["start"] == "manual" {
            let spawned =
                events.iter().filter(|event| event["kind"] == "spawned" && event["model"] == name).count();
            let commands = lane.commands.get(name).copied().unwrap_or_default();
            assert!(spawned <= commands, "{name} was spawned {spawned} times by {commands} commands");
        }
    }
    // A model that was stopped by hand is only started by hand.
    if let Some(stopped) = models(status).find(|m| m["start"] == "always" && m["reason"] == "stopped by hand")
    {
        let name = stopped["name"].as_str().unwrap().to_owned();
        lane.tell("start", &name, "");
    }
    broken
}

fn models(status: &Value) -> impl Iterator<Item = &Value> {
    status["models"].as_array().unwrap().iter()
}

/// What is wrong with one model once things have settled.
fn wrong(model: &Value) -> Option<String> {
    let state = model["state"].as_str().unwrap();
    let pid = model["pid"].as_i64();
    match (model["start"].as_str().unwrap(), state) {
        (_, "ready") => {
            let address = model["backend_address"].as_str()?;
            let port: u16 = address.rsplit(':').next()?.parse().ok()?;
            let owner = owner_of(port);
            (owner != pid).then(|| format!("its port {port} is owned by {owner:?}, not {pid:?}"))
        }
        // It can never start: its files cannot be read.
        ("always", "backoff") if model["name"] == "n" => {
            let told = model["reason"].is_string() && model["next_start_seconds"].is_number();
            (!told).then(|| format!("no reason or no next time: {model}"))
        }
        ("always", other) => Some(format!("always on, and {other}: {}", model["reason"])),
        ("manual", "loading") if model["name"] == "c" => None,
        ("manual", "stopped" | "failed") => {
            (!model["reason"].is_string()).then(|| format!("{state} without a reason"))
        }
        (_, other) => Some(format!("still {other}")),
    }
}

/// The process that listens on a loopback port.
fn owner_of(port: u16) -> Option<i64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    let inode = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"0A")).then(|| fields[9].to_owned())
    })?;
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i64>().ok()).find(|pid| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|to| to.as_os_str() == wanted.as_str())
    })
}
