//! Input from outside is read without panics, without hangs, and without being mistaken for something else. Each
//! target tries its corpus (`tests/corpora`) and then variations of it; an input that breaks it is added to the corpus.
//!
//! `scripts/fuzz MINUTES` gives each target that long.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlxctl::internals::backend::link::Link;
use mlxctl::internals::backend::record;
use mlxctl::internals::registry::Registry;
use mlxctl::internals::service::launchctl::print::Printed;
use mlxctl::internals::supervisor::Journal;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::support::dice::number;
use crate::support::{Entry, Instance, PATIENCE};

/// Variations per target, unless more are requested.
const CASES: u32 = 200;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora").join(target)
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    let read = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![std::fs::read(path).unwrap()] };
    found.into_iter().flat_map(read).collect()
}

/// One change of an input: where (a share of its length), how much, and what instead.
type Edit = (u16, u8, Vec<u8>);

fn vary(mut input: Vec<u8>, edits: &[Edit], from: &[u8]) -> Vec<u8> {
    for (place, length, instead) in edits {
        let at = input.len() * usize::from(*place) / usize::from(u16::MAX);
        let end = input.len().min(at + usize::from(*length % 16));
        // Half of what is inserted comes from another input, because random bytes alone achieve little.
        let borrowed = from.len() * usize::from(*place) / usize::from(u16::MAX);
        let borrowed = &from[borrowed..from.len().min(borrowed + usize::from(*length))];
        let instead = if length % 2 == 0 { instead.as_slice() } else { borrowed };
        input.splice(at..end, instead.iter().copied());
    }
    input
}

/// Tries a corpus and variations of it. An input that panics is written into the corpus.
fn target(name: &str, corpus: Vec<Vec<u8>>, mut try_one: impl FnMut(&[u8])) {
    assert!(!corpus.is_empty());
    let mut kept = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| try_one(input))) {
            let hash =
                input.iter().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            std::fs::create_dir_all(folder(name)).unwrap();
            let file = folder(name).join(format!("found-{hash:016x}"));
            std::fs::write(&file, input).unwrap();
            println!("kept as {}", file.display());
            resume_unwind(panic);
        }
    };
    for input in &corpus {
        kept(input);
    }
    let edit = (any::<u16>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..8));
    let some = any::<prop::sample::Index>();
    let variation = (some.clone(), some, prop::collection::vec(edit, 1..6));
    let until = Instant::now() + Duration::from_secs(number("MLXCTL_FUZZ_SECONDS", 0));
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let mut tried = 0;
    loop {
        for _ in 0..CASES {
            let (one, other, edits) = variation.new_tree(&mut runner).unwrap().current();
            let other: &Vec<u8> = other.get(&corpus);
            kept(&vary(one.get(&corpus).clone(), &edits, other));
            tried += 1;
        }
        if Instant::now() >= until {
            break;
        }
    }
    println!("{name}: {} inputs and {tried} variations", corpus.len());
}

#[test]
fn any_registry_is_read_or_refused_with_a_place() {
    let corpus = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/registries"));
    target("registry", corpus, |input| {
        let text = String::from_utf8_lossy(input);
        if let Err(problems) = Registry::parse(Path::new("/etc/mlxctl/models.toml"), &text) {
            assert!(!problems.plain().is_empty());
        }
    });
}

#[test]
fn any_history_is_continued() {
    target("journal", files(&folder("journal")), |input| {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("events.jsonl"), input).unwrap();
        let mut journal = Journal::open(state.path());
        let last = journal.after(None, 1).last().map_or(0, |record| record.seq);
        let seq = journal.note(std::time::SystemTime::UNIX_EPOCH, None, "up", "x", None).seq;
        assert!(seq > last || last == u64::MAX, "{seq} after {last}");
        assert_eq!(journal.problem(), None);
        let again = Journal::open(state.path()).after(None, 1);
        assert_eq!(again[0].text, "x", "what was written is read");
    });
}

#[test]
fn any_record_is_read_or_set_aside() {
    target("record", files(&folder("record")), |input| {
        let run = tempfile::tempdir().unwrap();
        for name in ["m.json", "m.live.json"] {
            std::fs::write(run.path().join(name), input).unwrap();
        }
        let read = [
            record::read_spec(run.path(), "m").unwrap().is_some(),
            record::read_record(run.path(), "m").unwrap().is_some(),
        ];
        let names = ["m.json", "m.live.json"];
        for (name, read) in names.into_iter().zip(read) {
            assert_eq!(run.path().join(name).exists(), read, "{name}");
        }
    });
}

#[test]
fn any_text_on_the_link_is_a_message_or_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    target("link", files(&folder("link")), |input| {
        let read = async {
            let mut link = Link::connect(&path).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(input).unwrap();
            drop(peer);
            let mut messages = 0;
            while link.next().await.is_ok() {
                messages += 1;
            }
            assert!(messages <= input.iter().filter(|byte| **byte == b'\n').count());
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, read).await.unwrap() });
    });
}

#[test]
fn any_launchctl_output_is_read_for_what_it_holds() {
    let corpus = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/launchctl"));
    target("launchctl", corpus, |input| {
        let printed = Printed::parse(&String::from_utf8_lossy(input));
        let _ = printed.last_end();
    });
}

fn answers_or_closes(mut stream: impl Read) {
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "neither answered nor closed");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
}

#[test]
fn any_bytes_on_the_control_socket_leave_the_supervisor_answering() {
    let instance = Instance::fake(vec![Entry::new("m", "manual")]).serve();
    let socket = instance.root().join("run/mlxctl.sock");
    target("control", files(&folder("control")), |input| {
        // A variation may be a valid request.
        let asks = |what: &str| memchr::memmem::find(input, what.as_bytes()).is_some();
        if asks("handover") || asks("start") || asks("follow") {
            return;
        }
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may hang up before it has read everything.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        answers_or_closes(stream);
    });
    assert_eq!(instance.model("m")["state"], "stopped");
}

#[test]
fn any_weights_are_measured_or_refused() {
    target("safetensors", files(&folder("safetensors")), |input| {
        let model = tempfile::tempdir().unwrap();
        let config = r#"{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
            "num_key_value_heads":2,"intermediate_size":128,"vocab_size":300}"#;
        std::fs::write(model.path().join("config.json"), config).unwrap();
        std::fs::write(model.path().join("model.safetensors"), input).unwrap();
        if let Ok(files) = mlxctl::internals::memory::files::read_folder(model.path()) {
            assert!(files.weights.bytes.0 <= input.len() as u64, "more than there is");
        }
        std::fs::write(model.path().join("model.safetensors.index.json"), input).unwrap();
        // A file outside the folder is never read, whatever the index says.
        if let Ok(files) = mlxctl::internals::memory::files::read_folder(model.path()) {
            assert_eq!(files.shards, 1);
        }
    });
}

/// Raw HTTP, and the bodies that the gate is known to accept or to refuse.
#[test]
fn any_bytes_at_the_gate_are_answered_and_leave_the_backend_as_it_was() {
    let instance = Instance::fake(vec![Entry::new("m", "always")]).serve();
    instance.wait_state("m", "ready");
    let (pid, gate) = (instance.pid("m"), instance.gate("m"));
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gate");
    let bodies = ["passed.jsonl", "refused.jsonl"].into_iter().flat_map(|name| {
        let text = std::fs::read_to_string(known.join(name)).unwrap();
        let body = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["body"].clone();
        text.lines().map(|line| body(line).as_str().unwrap().to_owned()).collect::<Vec<_>>()
    });
    let requests = bodies.map(|body| {
        let length = body.len();
        format!("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    });
    let corpus = files(&folder("gate")).into_iter().chain(requests).collect();
    target("gate", corpus, |input| {
        let mut stream = std::net::TcpStream::connect(gate).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may hang up before it has read everything.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        answers_or_closes(stream);
    });
    assert_eq!((&instance.model("m")["state"], instance.pid("m")), (&"ready".into(), pid));
}
