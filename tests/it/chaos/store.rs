//! Faults of kept prompts on disk, with the real server: killed at any moment of writing and reading, damaged files, a
//! full disk. After each, answers are the same as before, and nothing is left over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::promises;
use crate::support::dice::{Dice, number};
use crate::support::{Entry, Instance, PATIENCE, signal, try_http};

/// Restarted soon after each death, however many there are.
const QUICK: &str = r#"restart = { stable_after = "100ms", backoff_min = "10ms", backoff_max = "20ms", max_crashes = 10000, window = "1s" }"#;
/// Conversations, each with a beginning of its own.
const TALKS: [&str; 3] = ["What are you? ", "Who was that? ", "How is this? "];

struct Shop {
    instance: Instance,
    dice: Dice,
    /// The answer in each conversation before anything went wrong.
    answers: Vec<String>,
}

type Fault = fn(&mut Shop);

const FAULTS: &[(&str, Fault)] = &[
    ("backend killed while a trim writes", Shop::killed_while_it_writes),
    ("stored files damaged", Shop::damaged),
    ("backend killed while it reads", Shop::killed_while_it_reads),
    ("disk full while a trim writes", Shop::full),
    ("supervisor killed while a trim writes", Shop::supervisor_killed),
    ("backend stopped, and started", Shop::restarted),
];

#[test]
fn kept_prompts_through_faults_at_random() {
    let (faults, seed) = (number("MLXCTL_CHAOS_FAULTS", 80), number("MLXCTL_CHAOS_SEED", 1));
    // The real server takes seconds to restart.
    let rounds = usize::try_from(faults / 25).unwrap().max(FAULTS.len());
    let began = Instant::now();
    let mut instance = Instance::real(vec![Entry::new("p", "always").with(QUICK)]);
    instance.serve_until(None);
    let mut shop = Shop { instance, dice: Dice(seed), answers: Vec::new() };
    shop.answers = (0..TALKS.len()).map(|talk| shop.insist(talk).0).collect();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 0..rounds {
        let kind = if round < FAULTS.len() { round } else { shop.dice.roll(FAULTS.len()) };
        let (name, fault) = FAULTS[kind];
        fault(&mut shop);
        shop.hold(&format!("after fault {round}: {name}"));
        *counts.entry(name).or_default() += 1;
    }
    assert_eq!(shop.instance.end(), Some(0));
    assert!(promises::backends(&shop.instance).is_empty());
    for (name, times) in counts {
        println!("{times:6}  {name}");
    }
    println!("{rounds} faults of kept prompts in {:.0} s", began.elapsed().as_secs_f64());
}

impl Shop {
    fn folder(&self) -> PathBuf {
        self.instance.root().join("state/prompts/p")
    }

    /// Names of the store's files.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name != "lock").collect()
    }

    fn body(talk: usize) -> String {
        let messages = json!([{"role": "user", "content": TALKS[talk].repeat(40)}]);
        json!({"messages": messages, "max_tokens": 6, "temperature": 0}).to_string()
    }

    /// Asks until there is an answer: its text, and how many tokens were not computed.
    fn insist(&self, talk: usize) -> (String, u64) {
        let began = Instant::now();
        loop {
            let answer = try_http(self.instance.gate("p"), "POST", "/v1/chat/completions", &Self::body(talk));
            if let Some((200, answer)) = answer {
                let answer: Value = serde_json::from_str(&answer).unwrap();
                let said = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
                return (said, answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap());
            }
            assert!(began.elapsed() < 3 * PATIENCE, "{answer:?}\n{}", self.instance.serve_log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Nothing wrong is served, nothing is left over.
    fn hold(&mut self, after: &str) {
        for talk in 0..TALKS.len() {
            assert_eq!(self.insist(talk).0, self.answers[talk], "{after}");
        }
        let began = Instant::now();
        // What a killed supervisor requested may still be in progress.
        while self.files().iter().any(|name| name.contains(".part.")) {
            assert!(began.elapsed() < PATIENCE, "{after}: {:?}", self.files());
            std::thread::sleep(Duration::from_millis(20));
        }
        let files = self.files();
        let aside = files.iter().filter(|name| name.ends_with(".damaged")).count();
        let whole = |suffix: &str| files.iter().filter(|name| name.ends_with(suffix)).count();
        assert!(aside <= 2, "{after}: {files:?}");
        assert_eq!(whole(".tokens"), whole(".safetensors"), "{after}: {files:?}");
        self.instance.wait_state("p", "ready");
        let live = promises::backends(&self.instance);
        assert_eq!(live.values().map(Vec::len).collect::<Vec<_>>(), [1], "{after}");
    }

    /// Brings all conversations into memory, and none onto disk.
    fn filled(&mut self) {
        self.instance.wait_state("p", "ready");
        self.instance.expect(0, &["trim", "p", "--forget"]);
        assert_eq!(self.files(), [""; 0]);
        for talk in 0..TALKS.len() {
            assert!(self.insist(talk).1 < 100, "forgotten");
        }
    }

    fn trim(&self) -> std::process::Child {
        let mut trim = self.instance.mlxctl(&["trim", "p"]);
        trim.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    }

    /// Waits for a file that is being written, or for a while.
    fn writing(&mut self) {
        let most = Duration::from_millis(self.dice.roll(400) as u64);
        let wanted = self.dice.roll(3) + 1;
        let began = Instant::now();
        while began.elapsed() < most && self.files().len() < wanted {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn killed_while_it_writes(&mut self) {
        self.filled();
        let pid = self.instance.pid("p");
        let mut trim = self.trim();
        self.writing();
        signal(pid, Signal::SIGKILL);
        trim.wait().unwrap();
    }

    fn supervisor_killed(&mut self) {
        self.filled();
        let mut trim = self.trim();
        self.writing();
        self.instance.kill_supervisor();
        trim.wait().unwrap();
        self.instance.serve_until(None);
    }

    fn killed_while_it_reads(&mut self) {
        self.instance.wait_state("p", "ready");
        self.instance.expect(0, &["trim", "p"]);
        let pid = self.instance.pid("p");
        let (gate, talk) = (self.instance.gate("p"), self.dice.roll(TALKS.len()));
        let asking =
            std::thread::spawn(move || try_http(gate, "POST", "/v1/chat/completions", &Self::body(talk)));
        std::thread::sleep(Duration::from_millis(self.dice.roll(60) as u64));
        signal(pid, Signal::SIGKILL);
        drop(asking.join().unwrap());
    }

    fn full(&mut self) {
        self.filled();
        let pid = self.instance.pid("p").to_string();
        let limit = |limit: &str| {
            let fsize = format!("--fsize={limit}:");
            let done = std::process::Command::new("prlimit").args(["--pid", &pid, &fsize]).status();
            assert!(done.unwrap().success(), "prlimit (util-linux) is needed");
        };
        limit(&(1000 + self.dice.roll(20_000)).to_string());
        self.instance.expect(0, &["trim", "p"]);
        limit("unlimited");
        assert_eq!(self.files(), [""; 0]);
        let trouble = self.instance.model("p")["memory"]["prompt_store"]["trouble"].to_string();
        assert!(trouble.contains("could not be stored"), "{trouble}");
        assert!(self.insist(0).1 < 100, "there is nothing to read");
    }

    fn restarted(&mut self) {
        self.filled();
        self.instance.expect(0, &["restart", "p"]);
        assert!(self.insist(0).1 > 100, "it is read back");
    }

    fn damaged(&mut self) {
        self.filled();
        self.instance.expect(0, &["trim", "p"]);
        let files = self.files();
        for _ in 0..=self.dice.roll(3) {
            let path = self.folder().join(self.dice.pick(&files));
            let Ok(mut bytes) = std::fs::read(&path) else { continue };
            let at = self.dice.roll(bytes.len().max(1));
            match self.dice.roll(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.dice.roll(8),
                1 => bytes.truncate(at),
                2 => bytes.fill(0),
                3 => bytes = std::fs::read(self.folder().join(self.dice.pick(&files))).unwrap_or_default(),
                _ => {
                    std::fs::remove_file(&path).unwrap();
                    continue;
                }
            }
            std::fs::write(&path, bytes).unwrap();
        }
        // Either as it runs, with its list in memory, or by the next one, which reads it again.
        if self.dice.roll(2) == 0 {
            signal(self.instance.pid("p"), Signal::SIGKILL);
        }
    }
}
