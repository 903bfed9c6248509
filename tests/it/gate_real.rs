//! The gate in front of the real server: nothing that passes it ends the backend or makes it unready.
//!
//! `$MLXCTL_FUZZ_SECONDS` is the duration of the fuzzing (5), `$MLXCTL_FUZZ_SEED` its seed; what it finds is printed
//! with the request and belongs in `tests/corpus/gate`. `scripts/fuzz-gate` runs it for longer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::gate_door::{corpus, path};
use crate::support::{Entry, Instance, PATIENCE, http};

fn instance() -> Instance {
    let entry = Entry::new("tiny", "always")
        .with("limits = { max_tokens = 16, messages = 100, read_timeout = \"2s\" }");
    let instance = Instance::real(vec![entry]).serve();
    instance.wait_state("tiny", "ready");
    instance
}

/// Sends bytes and reads until the other end has answered or closed.
fn raw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A refusal may arrive, and the connection end, before everything is written.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut [0; 4096]);
}

#[test]
fn the_corpus_leaves_the_real_server_as_it_was() {
    let instance = instance();
    let (gate, pid) = (instance.gate("tiny"), instance.pid("tiny"));
    for case in corpus("refused") {
        let (status, answer) = http(gate, "POST", path(&case), case["body"].as_str().unwrap());
        assert!(matches!(status, 400 | 404), "{}: {status} {answer}", case["name"]);
    }
    for case in corpus("passed") {
        let (status, answer) = http(gate, "POST", path(&case), case["body"].as_str().unwrap());
        assert_eq!(status, 200, "{}: {answer}", case["name"]);
        // Under the name that the gate lists, in complete answers and in every event of a stream.
        let named = answer.matches("\"model\": ").count();
        assert_eq!(answer.matches("\"model\": \"tiny\"").count(), named, "{}: {answer}", case["name"]);
        assert!(named > 0, "{}: {answer}", case["name"]);
        assert_eq!(http(gate, "GET", "/health", "").0, 200, "{}", case["name"]);
    }
    assert_eq!(instance.pid("tiny"), pid);
    assert_eq!(instance.model("tiny")["restarts"], 0);
}

/// One request is at the backend and the others wait when its process is killed.
#[test]
fn fifty_queued_requests_outlive_the_real_server() {
    let entry = Entry::new("tiny", "always")
        .with("limits = { max_tokens = 64, in_flight = 1, queue = 60, queue_timeout = \"2m\" }")
        .with("restart = { stable_after = \"100ms\" }");
    let instance = Instance::real(vec![entry]).serve();
    instance.wait_state("tiny", "ready");
    let (gate, pid) = (instance.gate("tiny"), instance.pid("tiny"));
    let ask = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":64,"stream":true}"#;
    let clients: Vec<_> = (0..51)
        .map(|_| {
            let mut stream = TcpStream::connect(gate).unwrap();
            stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
            let length = ask.len();
            write!(stream, "POST /v1/chat/completions HTTP/1.1\r\nHost: {gate}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{ask}").unwrap();
            stream
        })
        .collect();
    // An answer takes tens of milliseconds: nearly all are still in the queue.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let (mut whole, mut cut) = (0, 0);
    for mut client in clients {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        match (text.contains("[DONE]"), text.contains("backend_lost")) {
            (true, false) => whole += 1,
            (false, true) => cut += 1,
            _ => panic!("neither whole nor ended with the event: {text}"),
        }
    }
    assert!(whole >= 50 && whole + cut == 51, "{whole} whole, {cut} cut");
    assert_ne!(instance.pid("tiny"), pid);
}

#[test]
fn fuzzed_bodies_and_raw_http_leave_the_real_server_ready() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seconds, seed) = (number("MLXCTL_FUZZ_SECONDS", 5), number("MLXCTL_FUZZ_SEED", 1));
    let instance = instance();
    let (gate, pid) = (instance.gate("tiny"), instance.pid("tiny"));
    let bases: Vec<Value> = corpus("passed").into_iter().chain(corpus("refused")).collect();
    let mut dice = Dice(seed.max(1));
    let (began, mut sent) = (Instant::now(), 0_u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        let base = &bases[dice.below(bases.len())];
        let body = dice.body(base["body"].as_str().unwrap());
        let head =
            format!("POST {} HTTP/1.1\r\nHost: {gate}\r\nContent-Length: {}\r\n\r\n", path(base), body.len());
        let mut bytes = [head.as_bytes(), &body].concat();
        if dice.below(4) == 0 {
            dice.spoil(&mut bytes);
        }
        raw(gate, &bytes);
        sent += 1;
        let (status, answer) = http(gate, "GET", "/health", "");
        let last = String::from_utf8_lossy(&bytes);
        assert_eq!(status, 200, "after request {sent} of seed {seed}: {answer}\n{last}");
    }
    println!("{sent} requests in {seconds} s, seed {seed}");
    let (status, answer) =
        http(gate, "POST", "/v1/chat/completions", r#"{"messages":[{"role":"user","content":"Hi"}]}"#);
    assert_eq!(status, 200, "{answer}");
    // The generation thread may be dead before the supervisor hears of it; the answer above shows that it is not.
    assert_eq!((instance.pid("tiny"), &instance.model("tiny")["restarts"]), (pid, &0.into()));
}

/// A small random generator, so that a seed is enough to repeat a run: xorshift64*, Vigna 2016.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A body like `base`, with something wrong in it.
    fn body(&mut self, base: &str) -> Vec<u8> {
        let mut text = base.to_owned();
        for _ in 0..=self.below(3) {
            match self.below(4) {
                // Another value for a field, or an additional field.
                0 | 1 => {
                    let member = format!("\"{}\":{},", self.one(FIELDS), self.one(VALUES));
                    if let Some(at) = text.find('{') {
                        text.insert_str(at + 1, &member);
                    }
                }
                // Another value somewhere inside.
                2 => {
                    let places: Vec<_> = text.match_indices(':').map(|(at, _)| at + 1).collect();
                    if !places.is_empty() {
                        let start = self.one(&places);
                        let end =
                            text[start..].find([',', '}', ']']).map_or(text.len(), |length| start + length);
                        text.replace_range(start..end, self.one(VALUES));
                    }
                }
                _ => {
                    let mut bytes = text.into_bytes();
                    self.spoil(&mut bytes);
                    return bytes;
                }
            }
        }
        text.into_bytes()
    }

    /// Bytes changed, duplicated or removed.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                1 => bytes.insert(at, self.one(b"\r\n\0 :;,\"\\{}[]0-\xff\xed")),
                2 => drop(bytes.remove(at)),
                _ => {
                    let end = (at + 1 + self.below(40)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
    }
}

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "seed",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "presence_context_size",
    "frequency_context_size",
    "repetition_context_size",
    "xtc_probability",
    "xtc_threshold",
    "num_draft_tokens",
    "tools",
    "tool_choice",
    "chat_template_kwargs",
    "draft_model",
    "adapters",
    "role_mapping",
    "role",
    "content",
    "name",
    "n",
    "user",
    "response_format",
    "m\\u006fdel",
    "",
];

/// Few different numbers between 0 and 1, because the server compiles a sampler for each new one, which takes seconds.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "11",
    "12",
    "441",
    "442",
    "512",
    "65536",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "100000000000000000000000000000000",
    "0.5",
    "1.0",
    "-0.5",
    "1e308",
    "1e309",
    "-1e309",
    "5e-324",
    "1e-400",
    "\"\"",
    "\"a\"",
    "\"tiny\"",
    "\"gpt-4\"",
    "\"1\"",
    "\"\\n\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"日本\"",
    "[]",
    "[[]]",
    "[\"a\"]",
    "[\"\"]",
    "[1]",
    "[null]",
    "{}",
    "{\"a\":1}",
    "{\"1\":1}",
    "{\"441\":-100}",
    "{\"442\":1}",
    "{\"include_usage\":true}",
    "{\"enable_thinking\":true}",
    "{\"chat_template\":\"\"}",
    "[{}]",
    "[{\"role\":\"user\"}]",
    "[{\"role\":\"user\",\"content\":\"\"}]",
    "[{\"role\":\"system\",\"content\":\"x\"}]",
    "[{\"role\":\"assistant\",\"content\":null}]",
    "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"}]}]",
    "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,AAAA\"}}]}]",
    "[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]}]",
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
    "[{\"type\":\"function\"}]",
];
