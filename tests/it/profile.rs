//! Cache profiles by the real mlx_lm: what it says about real configurations, and about hostile ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mlxctl::internals::memory::Profile;
use mlxctl::internals::memory::files::{read_folder, read_profiled};
use mlxctl::internals::memory::profile::RefusedKind;
use mlxctl::internals::python::profile::{LIMITS, Limits};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::real;

const FACTS: &str = include_str!("../fixtures/families.json");

#[derive(Deserialize)]
struct Case {
    name: String,
    document: String,
    bytes: BTreeMap<u64, u64>,
    /// Bits per value in the caches.
    quantized: Option<u64>,
}

fn describe(model: &Path, limits: Limits) -> String {
    mlxctl::internals::python::profile::describe(&real::python(), model, None, limits).unwrap()
}

/// A published architecture: what one sequence of 10,000 tokens takes, worked out by hand.
#[derive(Deserialize)]
struct Fact {
    name: String,
    /// Bytes per token in the layers that grow with the sequence.
    per_token: u64,
    /// Bytes per token in the layers with a window, and the window.
    #[serde(default)]
    windowed: (u64, u64),
    /// Bytes that do not grow.
    #[serde(default)]
    fixed: u64,
}

#[test]
fn profiles_of_real_configurations_are_exact_and_read_alike_by_both_languages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(real::python())
        .args(["-c", include_str!("profile.py")])
        .args(
            ["src/python/profile.py", "scripts/lib/families.py", "tests/fixtures/families.json"]
                .map(|file| root.join(file)),
        )
        .arg(folder.path())
        .output()
        .expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut cases: Vec<Case> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fp8 = cases.pop().unwrap();
    let facts: Vec<Fact> = serde_json::from_str(FACTS).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let profile = match Profile::parse(&case.document) {
            Ok(profile) => profile,
            Err(refused) => {
                wrong.push(format!("{}: {refused}", case.name));
                continue;
            }
        };
        let quantized = case.quantized.map(|bits| (bits, 64, 0));
        for (&tokens, &bytes) in &case.bytes {
            let read = profile.shape().kv(tokens, quantized).0;
            if read != bytes || !profile.exact {
                wrong.push(format!("{} at {tokens}: {bytes} seen, {read} read", case.name));
            }
        }
        if let Some(fact) = facts.iter().find(|fact| fact.name == case.name) {
            let (each, window) = fact.windowed;
            // Growing caches are allocated in steps of 256 tokens; windows are full by then.
            let expected = fact.per_token * 10_240 + each * window + fact.fixed;
            if case.bytes[&10_000] != expected {
                wrong.push(format!(
                    "{}: {} seen, {expected} by its architecture",
                    case.name, case.bytes[&10_000]
                ));
            }
        }
    }
    assert_eq!(cases.len(), facts.len() + 7 + 2);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    weights_count_as_served(&folder.path().join("fp8"), fp8.bytes[&1], fp8.bytes[&2]);
}

/// mlx_lm expands FP8 to bfloat16, which the files do not say.
fn weights_count_as_served(folder: &Path, served: u64, stored: u64) {
    let profile = Profile::parse(&describe(folder, LIMITS)).unwrap();
    let weights = |profile| read_profiled(folder, profile).unwrap().weights.bytes.0;
    assert_eq!((weights(Some(&profile)), weights(None)), (served, stored));
    assert!(served > stored * 3 / 2, "{served} of {stored}");
    assert_eq!(read_folder(folder).unwrap().weights.bytes.0, stored, "a first estimate goes by the files");
}

/// Testing all of them takes minutes; this is one family per kind of cache.
#[test]
fn a_sample_of_families_is_estimated_to_the_byte() {
    let output = std::process::Command::new(real::python())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench-families"))
        .args(["--sample", "--lengths", "300,1200"])
        .output()
        .expect("the interpreter runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("13 families: 13 exact, 0 over, 0 under, 0 refused, 0 failed"), "{text}");
}

fn good() -> Value {
    json!({
        "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 320, "rms_norm_eps": 1e-6,
    })
}

fn refused(files: &[(&str, String)]) -> (RefusedKind, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let refused = Profile::parse(&describe(folder.path(), LIMITS)).unwrap_err();
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, files.len(), "nothing is written next to the model");
    (refused.kind, refused.message)
}

#[test]
fn a_hostile_configuration_is_refused_by_name_and_nothing_of_it_runs() {
    let with = |key: &str, value: Value| {
        let mut config = good();
        config[key] = value;
        ("config.json", config.to_string())
    };
    for (files, kind, says) in [
        (
            vec![with("num_hidden_layers", json!(1_000_000_000_000_u64))],
            RefusedKind::Config,
            "num_hidden_layers: 1000000000000",
        ),
        (
            vec![(
                "config.json",
                good().to_string().replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":Infinity"),
            )],
            RefusedKind::Config,
            "num_hidden_layers: inf",
        ),
        (vec![("config.json", "[".repeat(200_000))], RefusedKind::Config, "nested more than 64"),
        (
            vec![("config.json", format!("{}1{}", "{\"a\":".repeat(70), "}".repeat(70)))],
            RefusedKind::Config,
            "nested more than 64",
        ),
        (
            vec![with("model_file", json!("evil.py")), ("evil.py", "open('ran', 'w')".to_owned())],
            RefusedKind::Code,
            "never run",
        ),
        (vec![with("model_type", json!("deepseek_v9"))], RefusedKind::Family, "has no deepseek_v9"),
        (vec![with("model_type", json!("../../evil"))], RefusedKind::Family, "has no ../../evil"),
        (vec![with("hidden_size", json!(1_u64 << 47))], RefusedKind::Build, "mlx_lm cannot load it"),
    ] {
        let (found, message) = refused(&files);
        assert!(found == kind && message.contains(says), "{says}: {found:?} {message}");
    }
}

#[test]
fn a_template_is_parsed_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    // Infinity where mlx_lm accepts it.
    write("config.json", &good().to_string().replace("1e-6", "1e-6,\"rope_theta\":Infinity"));
    // A module in the folder does not replace the environment's either.
    write("jinja2.py", "raise SystemExit");
    let loops = "{% for n in range(10**9) %}{{ 'x' * 10**9 }}{{ messages }}{% endfor %}{{ 10**10**10 }}\
                 {{ 'a'|center(9999999999) }}{% if enable_thinking %}{{ tools|tojson }}{% endif %}";
    write("chat_template.jinja", loops);
    std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "{{ documents }}");
    let profile = Profile::parse(&describe(folder.path(), LIMITS)).unwrap();
    let variables: Vec<String> = profile.template.unwrap().read().unwrap().into_iter().collect();
    assert_eq!(variables, ["documents", "enable_thinking", "messages", "tools"]);
    assert!(profile.exact && profile.weights.tensors > 0, "and the rest of the profile is there");
}

#[test]
fn what_takes_too_long_or_too_much_memory_is_given_up_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), good().to_string()).unwrap();
    let limit = |limits| {
        let refused = Profile::parse(&describe(folder.path(), limits)).unwrap_err();
        assert_eq!(refused.kind, RefusedKind::Limit, "{refused}");
        refused.message
    };
    // Importing MLX alone passes both.
    let time = limit(Limits { time: Duration::from_millis(20), ..LIMITS });
    assert!(time.contains("longer than 0.02 s"), "{time}");
    let memory = limit(Limits { memory: 20_000_000, ..LIMITS });
    assert!(memory.contains("more than 0.0 GB of memory"), "{memory}");
}
