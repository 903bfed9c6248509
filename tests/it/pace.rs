//! While a program runs that the models yield to: a pace that begins and ends with it, and requests that wait.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::real;
use crate::support::{Entry, Instance, PATIENCE, copy_program, http};

/// The rests are proportional, on a clock that the test moves.
#[test]
fn a_paced_launcher_rests_in_proportion_to_its_work() {
    let held = real::promises_held(include_str!("pace.py"));
    assert!(held.len() == 9 && held.last().is_some_and(|last| last == "followed at once"), "{held:?}");
}

/// A process that plays the game's part; ends with the test.
struct Game(Child);

impl Game {
    /// Programs are found by name on the whole machine, on which other tests have games of their own.
    fn name(of: &str) -> String {
        format!("Civ-{of}-{}", std::process::id())
    }

    fn program(folder: &Path, of: &str) -> PathBuf {
        let program = folder.join(Self::name(of));
        copy_program(Path::new("/bin/sleep"), &program);
        program
    }

    fn start(folder: &Path, of: &str) -> Self {
        Self(Command::new(Self::program(folder, of)).arg("600").spawn().unwrap())
    }

    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Game {
    fn drop(&mut self) {
        // It may already have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One that looks for the game with its health checks, five times a second.
fn instance(of: &str, more: &str) -> Instance {
    let entry = Entry::new("m", "always")
        .with("health = { interval = \"200ms\" }\nlimits = { queue_timeout = \"50s\", in_flight = 1 }");
    let lines = format!("reserve = []\nyield = [{:?}]\nyield_hold = \"2s\"\n{more}", Game::name(of));
    let instance = Instance::real(vec![entry]).memory(&lines).serve();
    instance.wait_state("m", "ready");
    instance
}

fn until(what: &str, seen: impl Fn() -> bool) {
    let began = Instant::now();
    while !seen() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The pace that the model's launcher reports.
fn pace(instance: &Instance) -> Value {
    let stream = UnixStream::connect(instance.root().join("run/m.sock")).unwrap();
    let mut hello = String::new();
    BufReader::new(stream).read_line(&mut hello).unwrap();
    serde_json::from_str::<Value>(&hello).unwrap()["pace"].clone()
}

fn ask(instance: &Instance) -> (u16, String) {
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":8}"#;
    http(instance.gate("m"), "POST", "/v1/chat/completions", body)
}

fn kinds(instance: &Instance, kind: &str) -> usize {
    instance.events().iter().filter(|event| event["kind"] == kind).count()
}

#[test]
fn the_real_server_is_paced_while_the_game_runs_whoever_supervises_it() {
    let mut instance = instance("pace", "pace = \"25%\"");
    assert_eq!(pace(&instance), Value::Null);
    let game = Game::start(&instance.root(), "pace");
    until("the pace begins", || pace(&instance) == 25);
    let said = instance.expect(0, &["status"]);
    assert!(said.contains(&format!("pacing for {}", Game::name("pace"))), "{said}");
    assert_eq!(instance.status()["supervisor"]["pace_percent"], 25);
    assert_eq!(ask(&instance).0, 200);
    // What is not batched is paced as well: a seed.
    let seeded = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":8,"seed":1}"#;
    assert_eq!(http(instance.gate("m"), "POST", "/v1/chat/completions", seeded).0, 200);

    // A new run, and an adopted one that was not told yet.
    instance.expect(0, &["restart", "m"]);
    until("a new run is paced", || pace(&instance) == 25);
    instance.kill_supervisor();
    game.end();
    assert_eq!(pace(&instance), 25, "it was not told to stop");
    instance.serve_again();
    until("the pace ends", || pace(&instance) == Value::Null);
    instance.wait_state("m", "ready");
    let _game = Game::start(&instance.root(), "pace");
    until("the pace begins again", || pace(&instance) == 25);
    instance.kill_supervisor();
    instance.serve_again();
    instance.wait_state("m", "ready");
    until("it is paced after adoption", || pace(&instance) == 25);
    assert_eq!(ask(&instance).0, 200);
    assert_eq!(instance.end(), Some(0));
}

#[test]
fn requests_wait_for_the_game_and_those_in_flight_finish() {
    let instance = instance("hold", "yield_actions = [\"hold\"]");
    let mut stream = TcpStream::connect(instance.gate("m")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":1500,"stream":true}"#;
    let length = body.len();
    write!(stream, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    until("it is in flight", || instance.model("m")["traffic"]["in_flight"] == 1);
    let game = Game::start(&instance.root(), "hold");
    until("it is held", || instance.status()["supervisor"]["holding"] == true);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("[DONE]"), "{answer}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&instance));
        until("a request waits", || instance.model("m")["traffic"]["requests"] == 2);
        let health = http(instance.gate("m"), "GET", "/health", "");
        assert!(health.0 == 503 && health.1.contains("model_held"), "{health:?}");
        assert_eq!(instance.model("m")["traffic"]["in_flight"], 0);
        assert_eq!(kinds(&instance, "hold"), 1);
        game.end();
        let (status, answer) = waiting.join().unwrap();
        assert_eq!(status, 200, "{answer}");
    });
    assert_eq!(kinds(&instance, "hold"), 2);
}
