//! One instance, its models, and the loop of faults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{faults, places, promises};
use crate::support::dice::Dice;
use crate::support::{Entry, Instance, PATIENCE, signal, try_control, try_http};

/// Quick enough for hundreds of faults, slow enough for a busy machine.
const QUICK: &str = r#"health = { interval = "300ms", timeout = "500ms", hang_after = "1500ms" }
stop = { drain = "3s", term = "500ms" }"#;

/// As [`QUICK`], but it takes long until silence counts as a hang.
const PATIENT: &str = r#"health = { interval = "300ms", timeout = "500ms", hang_after = "10m" }
stop = { drain = "3s", term = "500ms" }"#;

pub struct Lane {
    pub instance: Instance,
    pub dice: Dice,
    number: u64,
    counts: BTreeMap<String, u64>,
    /// Commands that may start a manual model, by model.
    pub commands: BTreeMap<String, usize>,
}

fn restart(stable: &str, least: &str, most: &str) -> String {
    format!(
        "restart = {{ stable_after = {stable:?}, backoff_min = {least:?}, backoff_max = {most:?}, max_crashes = 10000, window = \"1s\" }}"
    )
}

impl Lane {
    pub fn new(seed: u64, number: u64) -> Self {
        let always = |name: &str, stable: &str| {
            Entry::new(name, "always").with(QUICK).with(&restart(stable, "300ms", "400ms"))
        };
        let manual = |name: &str| Entry::new(name, "manual").with(QUICK);
        let patient = |name: &str| Entry::new(name, "manual").with(PATIENT);
        let models = vec![
            always("a", "100ms").faults(&["load=0.1"]),
            always("g", "1h").faults(&["load=0.1"]),
            always("n", "1h").repo(&unusable_model()),
            manual("b").faults(&["token=0.02", "tokens=400"]),
            manual("c").faults(&["load=60"]),
            manual("d").faults(&["exit=3"]),
            manual("h").faults(&["thread-dies-at=2"]),
            patient("l").faults(&["lose-listener=0.3"]),
            patient("s").faults(&["stranger=nothing"]),
            manual("f").faults(&["forks=group"]),
            manual("e").faults(&["die-at=3", "grandchild"]),
        ];
        let dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let mut instance = Instance::fake(models);
        instance.serve_until(None);
        Self { instance, dice, number, counts: BTreeMap::new(), commands: BTreeMap::new() }
    }

    /// Runs this many faults; returns how often each occurred.
    pub fn run(mut self, faults: u64, lanes: u64) -> BTreeMap<String, u64> {
        let places = places::all();
        let mut next = usize::try_from(self.number).unwrap();
        promises::hold(&mut self, "at the beginning");
        for fault in 0..faults {
            let what = if next < places.len() {
                let place = places[next].clone();
                next += usize::try_from(lanes).unwrap();
                self.die_at(&place)
            } else if self.dice.roll(2) == 0 {
                let place = self.dice.pick(&places).clone();
                self.die_at(&place)
            } else {
                faults::any(&mut self)
            };
            let name = format!("after fault {fault} of lane {}: {what}", self.number);
            promises::hold(&mut self, &name);
            *self.counts.entry(what).or_default() += 1;
        }
        self.instance.wait_state("a", "ready");
        assert_eq!(self.instance.end(), Some(0));
        let left = promises::backends(&self.instance);
        assert!(left.is_empty(), "left over: {left:?}");
        self.counts
    }

    /// Makes the supervisor die at this place, and starts another.
    fn die_at(&mut self, place: &str) -> String {
        self.kill_supervisor();
        self.instance.serve_until(Some(place));
        let reached = places::provoke(self, place);
        self.kill_supervisor();
        places::put_right(self);
        self.instance.serve_until(None);
        if reached { format!("died {place}") } else { format!("killed, not {place}") }
    }

    /// Kills the supervisor, if it is running.
    pub fn kill_supervisor(&mut self) {
        if !self.instance.supervisor_gone() {
            self.instance.kill_supervisor();
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.instance.root().join("run/mlxctl.sock")
    }

    /// The status document, if a supervisor answers.
    pub fn status(&self) -> Option<Value> {
        let answer = try_control(&self.socket(), "GET", "/v1/status", "").ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// A model's part of the status.
    pub fn model(&self, name: &str) -> Option<Value> {
        self.status()?["models"].as_array()?.iter().find(|model| model["name"] == name).cloned()
    }

    /// Sends a command and does not wait for its outcome.
    pub fn tell(&mut self, verb: &str, name: &str, body: &'static str) {
        if verb != "stop" {
            *self.commands.entry(name.to_owned()).or_default() += 1;
        }
        let (socket, path) = (self.socket(), format!("/v1/models/{name}/{verb}"));
        // Written before this returns, so that commands arrive in the order in which they were given.
        let (sent, written) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            let stream = std::os::unix::net::UnixStream::connect(socket);
            let length = body.len();
            let stream = stream.and_then(|mut stream| {
                write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")?;
                Ok(stream)
            });
            let _ = sent.send(());
            if let Ok(mut stream) = stream {
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let _ = written.recv();
    }

    /// A request to a gate; its answer is not read.
    pub fn chat(&self, name: &str, tokens: u32) {
        let gate = self.instance.gate(name);
        std::thread::spawn(move || {
            let body = format!(
                r#"{{"messages":[{{"role":"user","content":"x"}}],"max_tokens":{tokens},"stream":true}}"#
            );
            try_http(gate, "POST", "/v1/chat/completions", &body)
        });
    }

    /// Waits for a model to be as wanted; `None`: the supervisor died meanwhile, or the time is up.
    pub fn until(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let began = Instant::now();
        while !self.instance.supervisor_gone() && began.elapsed() < PATIENCE / 4 {
            if let Some(model) = self.model(name).filter(&wanted) {
                return Some(model);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        None
    }

    pub fn until_state(&mut self, name: &str, states: &[&str]) -> Option<Value> {
        self.until(name, |model| states.iter().any(|state| model["state"] == *state))
    }

    /// Kills the process of a model.
    pub fn kill_backend(&mut self, name: &str) -> Option<()> {
        let model = self.until(name, |model| model["pid"].is_number())?;
        signal(i32::try_from(model["pid"].as_i64()?).ok()?, Signal::SIGKILL);
        Some(())
    }

    /// A limit of the running supervisor: `fsize=0:`, `nofile=20:`.
    pub fn limit(&self, limit: &str) {
        let pid = self.instance.supervisor_pid().to_string();
        let mut prlimit = std::process::Command::new("prlimit");
        let done =
            prlimit.args(["--pid", &pid, &format!("--{limit}")]).stderr(std::process::Stdio::null()).status();
        assert!(done.is_ok(), "prlimit (util-linux) is needed");
    }
}

/// A model whose files exist but cannot be read: it waits for better ones, with a reason and the time of the next try.
fn unusable_model() -> String {
    let folder = std::env::temp_dir().join("mlxctl-chaos-unusable");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(folder.join(file), "nothing of the kind").unwrap();
    }
    folder.display().to_string()
}
