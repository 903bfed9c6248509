//! One model on several ranks of one machine, with MLX's own engine: it answers as with a single process, has the same
//! life cycle as any model, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::real;
use crate::support::{Entry, Instance, PATIENCE, alive, http, signal};

/// Ranks of a ring spin while they wait for each other: one group at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Four layers and four KV heads, so that four ranks can share them in either mode; random, and always the same.
pub fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster-model");
        if !folder.join("config.json").exists() {
            let shape = ["--untrained", "--hidden", "128", "--layers", "4"];
            mlxctl::internals::python::tiny::make(&real::python(), &folder, &shape, &mut |_| {}).unwrap();
        }
        folder
    })
}

fn grouped(name: &str, ranks: u32, mode: &str) -> Entry {
    Entry::new(name, "manual").repo(&model().display().to_string()).with(&format!(
        "cluster = {{ backend = \"ring\", mode = {mode:?}, heartbeat = \"500ms\", timeout = \"10s\", \
         hosts = [{{ ssh = \"127.0.0.1\", addresses = [\"127.0.0.1\"], ranks = {ranks} }}] }}"
    ))
}

fn answers(instance: &Instance, name: &str) -> Vec<String> {
    let ask = |content: &str| {
        let body =
            json!({"messages": [{"role": "user", "content": content}], "max_tokens": 24, "temperature": 0});
        let (status, body) = http(instance.gate(name), "POST", "/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    ["Hello", "What is the capital of France?", "ping", "日本"].map(ask).into()
}

/// The Python of every rank.
fn pids(model: &Value) -> Vec<i32> {
    let ranks = model["ranks"].as_array().unwrap();
    ranks.iter().map(|rank| i32::try_from(rank["pid"].as_i64().unwrap()).unwrap()).collect()
}

/// Checks that no process of this instance's ranks and none of their files are left.
fn nothing_is_left(instance: &Instance, pids: &[i32]) {
    let began = Instant::now();
    while pids.iter().any(|pid| alive(*pid)) {
        assert!(began.elapsed() < PATIENCE, "some of {pids:?} are left");
        std::thread::sleep(Duration::from_millis(10));
    }
    let ranks = instance.root().join("run/ranks");
    let files =
        std::fs::read_dir(ranks).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: Vec<_> = files.filter(|name| name.contains(".rank") || name.ends_with(".tmp")).collect();
    assert!(files.is_empty(), "{files:?} are left");
}

fn equal(ranks: u32, mode: &str) {
    let _alone = alone();
    let single = Entry::new("one", "manual").repo(&model().display().to_string());
    let instance = Instance::real(vec![single, grouped("many", ranks, mode)]).serve();
    instance.expect(0, &["start", "one"]);
    let expected = answers(&instance, "one");
    instance.expect(0, &["stop", "one"]);
    instance.expect(0, &["start", "many"]);
    assert_eq!(answers(&instance, "many"), expected, "{ranks} ranks, {mode}");
    let status = instance.wait_for("many", |model| {
        model["ranks"]
            .as_array()
            .is_some_and(|ranks| ranks.iter().all(|rank| rank["footprint_bytes"].is_u64()))
    });
    let pids = pids(&status);
    assert_eq!(pids.len(), ranks as usize);
    for (number, rank) in status["ranks"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&rank["rank"], &rank["state"]), (&json!(number), &json!("running")));
        assert!(rank["footprint_bytes"].as_u64().unwrap() > 10_000_000, "{rank}");
    }
    instance.expect(0, &["stop", "many"]);
    assert_eq!(instance.model("many")["state"], "stopped");
    assert!(pids.iter().all(|pid| !alive(*pid)), "stopped means that every rank is gone");
    nothing_is_left(&instance, &pids);
}

#[test]
fn two_ranks_in_tensor_mode_answer_as_one_process_does() {
    equal(2, "tensor");
}

#[test]
fn two_ranks_in_pipeline_mode_answer_as_one_process_does() {
    equal(2, "pipeline");
}

#[test]
fn four_ranks_in_tensor_mode_answer_as_one_process_does() {
    equal(4, "tensor");
}

#[test]
fn four_ranks_in_pipeline_mode_answer_as_one_process_does() {
    equal(4, "pipeline");
}

#[test]
fn a_rank_that_dies_takes_the_group_down_is_named_and_the_group_comes_back() {
    let _alone = alone();
    let quick = "restart = { enabled = true, backoff_min = \"10ms\", backoff_max = \"20ms\" }";
    let instance = Instance::real(vec![grouped("many", 2, "tensor").with(quick)]).serve();
    instance.expect(0, &["start", "many"]);
    let before = pids(&instance.model("many"));
    signal(before[1], Signal::SIGKILL);
    instance.wait_for("many", |model| model["restarts"] == 1 && model["state"] == "ready");
    assert!(before.iter().all(|pid| !alive(*pid)), "{before:?}");
    let told = instance.events();
    let crash = told
        .iter()
        .find(|event| event["text"].as_str().unwrap().contains("rank 1"))
        .expect("an event about rank 1");
    assert!(crash["text"].as_str().unwrap().contains("rank 1 on 127.0.0.1 was ended by SIGKILL"), "{crash}");
    assert_eq!(http(instance.gate("many"), "GET", "/health", "").0, 200);
}

#[test]
fn a_supervisor_that_comes_back_adopts_the_group_and_one_whose_conductor_is_killed_waits_for_its_ranks() {
    let _alone = alone();
    let mut instance = Instance::real(vec![grouped("many", 2, "tensor")]).serve();
    instance.expect(0, &["start", "many"]);
    let (conductor, ranks) = (instance.pid("many"), pids(&instance.model("many")));
    instance.kill_supervisor();
    instance.serve_again();
    let model = instance.wait_for("many", |model| model["state"] == "ready" && model["ranks"].is_array());
    assert_eq!(
        (model["adopted"].clone(), instance.pid("many"), pids(&model)),
        (json!(true), conductor, ranks.clone())
    );
    assert_eq!(answers(&instance, "many").len(), 4);
    // Found by its arguments if its record is lost.
    instance.kill_supervisor();
    std::fs::remove_file(instance.root().join("run/many.live.json")).unwrap();
    instance.serve_again();
    instance.wait_state("many", "ready");
    assert_eq!(instance.pid("many"), conductor);
    signal(conductor, Signal::SIGKILL);
    instance.wait_state("many", "failed");
    nothing_is_left(&instance, &ranks);
    signal(instance.supervisor_pid(), Signal::SIGTERM);
    assert_eq!(instance.wait_for_end(), Some(0));
}
