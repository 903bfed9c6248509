//! Kept prompts outlive what drops them from memory: a trim, a stop, a kill. Nothing wrong is ever read back.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::real;
use crate::support::{Entry, Instance, control, http, signal};

/// Every kind of cache, and a fault at each point of writing and reading.
#[test]
fn what_is_read_back_is_what_was_kept_and_a_fault_only_costs_a_recomputation() {
    let held = real::promises_held(include_str!("prompt_store.py"));
    let kinds = ["plain", "sliding", "quantised", "linear", "hybrid", "list", "chunked"];
    let faults = [
        "bounded",
        "short disk",
        "full disk",
        "killed",
        "killed while it reads",
        "unreadable",
        "damaged",
        "exchanged",
        "foreign",
        "refused",
        "counted",
        "cut to the window",
        "resumed",
        "compared once",
    ];
    assert!(kinds.iter().all(|kind| held.contains(&format!("kind {kind}"))), "{held:?}");
    assert!(faults.iter().all(|&fault| held.iter().any(|line| line == fault)), "{held:?}");
}

/// A prompt of some hundred tokens, and `more` after it; returns the answer and how many prompt tokens were cached.
fn ask(instance: &Instance, more: &str) -> (String, u64) {
    let messages = json!([{"role": "user", "content": format!("{} {more}", "What are you? ".repeat(40))}]);
    let body = json!({"messages": messages, "max_tokens": 8, "temperature": 0}).to_string();
    let (status, answer) = http(instance.gate("m"), "POST", "/v1/chat/completions", &body);
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    (text, answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
}

#[test]
fn a_conversation_outlives_a_trim_a_kill_and_a_restart_until_it_is_forgotten() {
    let instance = Instance::real(vec![Entry::new("m", "manual")]).serve();
    instance.expect(0, &["start", "m"]);
    let (first, cached) = ask(&instance, "");
    assert_eq!(cached, 0);
    let (kept, cached) = ask(&instance, "");
    assert!(cached > 100, "{cached} in memory");
    assert_eq!(kept, first);

    instance.expect(0, &["trim", "m"]);
    let (back, cached) = ask(&instance, "");
    assert!(cached > 100, "{cached} after a trim");
    assert_eq!(back, first);
    let store = instance.model("m")["memory"]["prompt_store"].clone();
    assert!(store["hits"].as_u64() == Some(1) && store["bytes"].as_u64() > Some(10_000), "{store}");
    assert_eq!(store["trouble"], Value::Null, "{store}");

    // Killed after a trim: what was written then is there.
    signal(instance.pid("m"), Signal::SIGKILL);
    instance.wait_for("m", |model| model["pid"].is_null());
    instance.expect(0, &["start", "m"]);
    let (back, cached) = ask(&instance, "and");
    assert!(cached > 100, "{cached} after a kill");

    // Stopped: written before it ends.
    // In memory again before the first request: nothing is read for a request.
    instance.expect(0, &["restart", "m"]);
    let (again, cached) = ask(&instance, "and");
    assert_eq!(again, back);
    assert!(cached > 100, "{cached} after a restart");
    let store = instance.model("m")["memory"]["prompt_store"].clone();
    assert!(store["hits"].as_u64() == Some(0) && store["read_bytes"].as_u64() > Some(10_000), "{store}");
    let counted: Value = serde_json::from_str(&instance.expect(0, &["usage", "m", "--json"])).unwrap();
    let all = &counted["models"][0]["all"];
    assert!(all["cached_tokens"].as_u64() > Some(400) && all["tokens"].as_u64() > Some(10), "{all}");

    let said = instance.expect(0, &["trim", "m", "--forget"]);
    assert!(said.contains("in memory or on disk"), "{said}");
    let folder = instance.root().join("state/prompts/m");
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"], "only the lock of the running backend");
    assert_eq!(ask(&instance, "").1, 0);
    instance.expect(0, &["stop", "m"]);
    assert!(std::fs::read_dir(&folder).unwrap().count() > 1);
    instance.expect(0, &["trim", "--forget"]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "without a backend as well");
}

#[test]
fn a_hand_over_and_a_restart_after_it_lose_neither_conversations_nor_counts() {
    let mut instance = Instance::real(vec![Entry::new("m", "always")]).serve();
    instance.wait_state("m", "ready");
    let (first, _) = ask(&instance, "");
    let usage = |instance: &Instance| -> Value {
        let usage: Value = serde_json::from_str(&instance.expect(0, &["usage", "--json"])).unwrap();
        usage["models"][0].clone()
    };
    let before = usage(&instance);
    let answer = control(&instance.root().join("run/mlxctl.sock"), "POST", "/v1/handover");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert_eq!(instance.wait_for_end(), Some(0));
    instance.serve_again();
    instance.wait_state("m", "ready");
    assert_eq!(usage(&instance), before, "counting continues");
    assert!(before["since"].as_str().unwrap().ends_with('Z'), "{before}");
    let pid = instance.pid("m");
    instance.expect(0, &["restart", "m"]);
    assert_ne!(instance.pid("m"), pid);
    let (back, cached) = ask(&instance, "");
    assert!(cached > 100, "{cached}");
    assert_eq!(back, first);
    assert_eq!(usage(&instance)["all"]["requests"], 2);
}

#[test]
fn the_models_own_tokenizer_checks_prompts_against_the_context_and_caps_answers() {
    let instance =
        Instance::real(vec![Entry::new("m", "manual").with("memory = { context = 1024 }")]).serve();
    instance.expect(0, &["start", "m"]);
    let ask = |words: usize, more: Value| {
        let mut body = json!({"prompt": "what ".repeat(words), "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = http(instance.gate("m"), "POST", "/v1/completions", &body.to_string());
        (status, serde_json::from_str::<Value>(&answer).unwrap_or(Value::String(answer)))
    };
    let (_, short) = ask(10, json!({"max_tokens": 1}));
    let (_, longer) = ask(20, json!({"max_tokens": 1}));
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let a_word = (tokens(&longer) - tokens(&short)) / 10;
    let fits = usize::try_from(1000 / a_word).unwrap();
    let (status, answer) = ask(fits, json!({"max_tokens": 5000}));
    assert_eq!(status, 200, "an answer is capped, not refused: {answer}");
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() <= 1024, "{answer}");
    let (status, refused) = ask(fits + 100, json!({"max_tokens": 1}));
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("context_length_exceeded")), "{refused}");
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.contains("1024") && said.contains("tokens"), "{said}");
    assert_eq!(ask(10, json!({"max_tokens": 1})).0, 200, "and nothing else happened");
}
