//! What the launcher promises to the supervisor, against the installed mlx-lm.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::real;

const SECRET: &str = "a1b2c3";
/// Far longer than anything here takes: only a launcher that never answers reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Backend {
    child: Child,
    folder: tempfile::TempDir,
    link: BufReader<UnixStream>,
    hello: Value,
}

impl Backend {
    fn start(spec: Value, arguments: &[&str]) -> Self {
        Self::start_with(spec, arguments, &[])
    }

    fn start_with(spec: Value, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("link"), "left behind by a run that was killed").unwrap();
        mlxctl::internals::backend::launcher::write(folder.path()).unwrap();
        let mut whole = json!({"link": path("link"), "generation": 7, "secret": SECRET});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        std::fs::write(path("spec.json"), whole.to_string()).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(real::python())
            .arg(path("launcher.py"))
            .arg(path("spec.json"))
            .args(["--host", "127.0.0.1"])
            .args(arguments)
            .env("HF_HUB_OFFLINE", "1")
            .env("PYTHONUNBUFFERED", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let (link, hello) = connect(path("link"));
        Self { child, folder, link, hello }
    }

    fn tiny() -> Self {
        Self::start(json!({}), &["--model", real::tiny_model().to_str().unwrap(), "--port", "0"])
    }

    fn event(&mut self) -> Value {
        receive(&mut self.link)
    }

    fn listening(&mut self) -> u16 {
        let event = self.event();
        assert_eq!(event["event"], "listening", "{event} {}", self.log());
        event["port"].as_u64().unwrap().try_into().unwrap()
    }

    fn ask(&mut self, op: &str) -> Value {
        writeln!(self.link.get_mut(), "{}", json!({"op": op})).unwrap();
        self.event()
    }

    fn term(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.wait().unwrap().code()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(link: PathBuf) -> (BufReader<UnixStream>, Value) {
    let until = Instant::now() + PATIENCE;
    let stream = loop {
        match UnixStream::connect(&link) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "no link: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut link = BufReader::new(stream);
    let hello = receive(&mut link);
    (link, hello)
}

fn receive(link: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    link.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn http(port: u16, secret: Option<&str>, request: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let secret = secret.map_or_else(String::new, |secret| format!("x-mlxctl-secret: {secret}\r\n"));
    let length = body.len();
    write!(stream, "{request} HTTP/1.0\r\n{secret}Content-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer)
}

fn chat(port: u16, more: Value) -> (u16, String) {
    let mut body = json!({"messages": [{"role": "user", "content": "What are you?"}], "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    http(port, Some(SECRET), "POST /v1/chat/completions", &body.to_string())
}

#[test]
fn an_answer_names_the_model_as_the_registry_does_and_is_otherwise_unchanged() {
    let model = real::tiny_model().to_str().unwrap();
    let arguments = ["--model", model, "--port", "0"];
    let mut named = Backend::start(json!({"model": "32b"}), &arguments);
    let mut plain = Backend::start(json!({}), &arguments);
    let ports = [named.listening(), plain.listening()];
    let usage = json!({"include_usage": true});
    for (path, mut body) in [
        ("chat/completions", json!({"messages": [{"role": "user", "content": "What are you?"}]})),
        ("completions", json!({"prompt": "What"})),
    ] {
        for (stream, call) in [(false, "default_model"), (true, "default_model"), (true, "")] {
            let more = json!({"stream": stream, "stream_options": usage, "temperature": 0, "max_tokens": 5});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            if !call.is_empty() {
                body["model"] = call.into();
            }
            let documents = ports.map(|port| {
                let request = format!("POST /v1/{path}");
                let (status, answer) = http(port, Some(SECRET), &request, &body.to_string());
                assert_eq!(status, 200, "{answer}");
                let body = answer.split_once("\r\n\r\n").unwrap().1;
                let lines = body.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
                let read = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let mut read: Vec<Value> = read.collect();
                for document in &mut read {
                    let fields = document.as_object_mut().unwrap();
                    // These differ between any two answers.
                    for own in ["id", "created"] {
                        assert!(fields.remove(own).is_some());
                    }
                    // So does what an earlier request left in the cache.
                    if let Some(usage) = fields.get_mut("usage") {
                        usage.as_object_mut().unwrap().remove("prompt_tokens_details");
                    }
                }
                read
            });
            let [named, mut plain] = documents;
            assert!(named.len() > usize::from(stream), "{named:?}");
            for document in &mut plain {
                assert_eq!(document["model"], "default_model");
                document["model"] = "32b".into();
            }
            assert_eq!(named, plain);
        }
    }
}

#[test]
fn only_requests_with_the_secret_are_served() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    for wrong in [None, Some("a1b2c4"), Some("a1b2c3d"), Some("ä"), Some("")] {
        assert_eq!(http(port, wrong, "GET /health", "").0, 403, "{wrong:?}");
    }
    assert_eq!(http(port, Some(SECRET), "GET /health", "").0, 200);
    let (status, answer) = chat(port, json!({}));
    assert_eq!(status, 200);
    assert!(answer.contains("I am a tiny test model"), "{answer}");
}

#[test]
fn connections_without_the_secret_lock_no_one_out() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut half: Vec<_> = (0..600)
        .map(|number| {
            let mut stream = connect();
            if number % 2 == 0 {
                // Those that were already closed do not matter.
                let _ = stream.write_all(b"GET /health HTTP/1.0\r\nx: ");
            }
            stream
        })
        .collect();
    assert_eq!(http(port, Some(SECRET), "GET /health", "").0, 200);
    let ended = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // An end or a reset, but not the timeout of this test.
        !matches!(stream.read(&mut [0; 512]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    assert!(ended(&mut half[0]), "the oldest one, because there are too many");
    assert!(ended(half.last_mut().unwrap()), "the last one, because it takes too long");
    assert_eq!(chat(port, json!({})).0, 200);
}

#[test]
fn the_link_reports_identity_and_port_to_late_clients_as_well() {
    let mut backend = Backend::tiny();
    assert_eq!(
        backend.hello,
        json!({"event": "hello", "protocol": 1, "generation": 7, "pid": backend.child.id(), "port": null, "pace": null,
               "thread": "none", "error": null})
    );
    let port = backend.listening();
    let (_late, hello) = connect(backend.folder.path().join("link"));
    assert_eq!((&hello["port"], &hello["thread"]), (&port.into(), &"alive".into()));
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(backend.folder.path().join("link")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn trim_releases_the_buffer_cache() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    assert_eq!(chat(port, json!({})).0, 200);
    let before = backend.ask("memory");
    assert!(before["active"].as_u64() > Some(200_000), "the weights count: {before}");
    assert!(before["peak"].as_u64() >= before["active"].as_u64(), "{before}");
    // On a CPU, the launcher itself empties the cache after an answer, at a time that no client can observe.
    assert!(before["cache"].is_u64(), "{before}");
    let trim = backend.ask("trim");
    assert!(trim["freed"].is_u64(), "{trim}");
    assert_eq!(backend.ask("memory")["cache"], 0);
    assert_eq!(backend.ask("dance")["reply"], "error");
}

#[test]
fn a_lone_backend_loads_no_mpi_and_a_rank_may() {
    let folder = tempfile::tempdir().unwrap();
    mlxctl::internals::backend::launcher::write(folder.path()).unwrap();
    let says = |text: &str, rank: Option<&str>| {
        let mut python = Command::new(real::python());
        python
            .current_dir(folder.path())
            .env_remove("MLX_MPI_LIBNAME")
            .envs(rank.map(|rank| ("MLX_RANK", rank)));
        let output = python.args(["-c", text]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let named = "import os, launcher; launcher.stay_alone(); print(os.environ.get('MLX_MPI_LIBNAME'))";
    assert_eq!((says(named, None).as_str(), says(named, Some("0")).as_str()), ("none", "None"));
    let known = "import mlx.core, pathlib; folder = pathlib.Path(mlx.core.__file__).parent / 'lib'\n\
                 print(any(b'MLX_MPI_LIBNAME' in file.read_bytes() for file in folder.glob('libmlx*')))";
    assert_eq!(says(known, None), "True", "the variable is MLX's own");
}

/// Bytes in use once the generation thread is done with the last answer: it still keeps the prompt after its client has
/// received everything.
fn settled(backend: &mut Backend) -> u64 {
    let mut before = None;
    loop {
        let active = backend.ask("memory")["active"].as_u64();
        if active == before {
            return active.unwrap();
        }
        before = active;
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn release_frees_kept_prompts_and_the_last_batch() {
    let bound = json!({"prompt_cache_bytes": 1 << 30});
    let mut backend =
        Backend::start(bound, &["--model", real::tiny_model().to_str().unwrap(), "--port", "0"]);
    let port = backend.listening();
    let long = "why ".repeat(500);
    assert_eq!(chat(port, json!({"max_tokens": 1})).0, 200);
    backend.ask("release");
    let idle = settled(&mut backend);
    let messages = json!([{"role": "user", "content": long}]);
    assert_eq!(chat(port, json!({"messages": messages, "max_tokens": 1})).0, 200);
    backend.ask("trim");
    let kept = settled(&mut backend);
    assert!(kept > idle + 200_000, "{kept} after a long prompt, {idle} before");
    let release = backend.ask("release");
    assert!(release["freed"].as_u64().unwrap() >= kept - idle - 50_000, "{release}");
    let after = settled(&mut backend);
    assert!(after <= idle + 50_000, "{after} after the release, {idle} before the prompt");
    let cached = |answer: &str| answer.contains(r#""cached_tokens": 0"#) || !answer.contains("cached_tokens");
    let (_, again) = chat(port, json!({"messages": messages, "max_tokens": 1}));
    assert!(cached(&again), "{again}");
    let (_, kept_again) = chat(port, json!({"messages": messages, "max_tokens": 1}));
    assert!(!cached(&kept_again), "the bound is unchanged: {kept_again}");
}

/// A room of `bytes` for prompts of up to 4096 tokens; the tiny model takes 256 bytes per token.
fn room(bytes: u64) -> Value {
    let rows: Vec<Value> = (1..=16_u64)
        .map(|row| json!({"tokens": row * 256, "bytes": [row * 65_536 + 100_000, row * 65_536 + 200_000]}))
        .collect();
    let table = json!({"bytes": bytes, "concurrency": 1, "least": 64, "steps": [64, 512], "rows": rows});
    json!({"prompt_cache_bytes": 1_200_000, "room": table})
}

fn cached(answer: &str) -> u64 {
    let at = answer.split(r#""cached_tokens": "#).nth(1).unwrap_or("0");
    at.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[test]
fn the_next_turn_of_a_conversation_reads_what_was_kept_and_it_is_held_once() {
    let tiny = real::tiny_model().to_str().unwrap();
    let mut backend = Backend::start(room(3_000_000), &["--model", tiny, "--port", "0"]);
    let port = backend.listening();
    assert_eq!(chat(port, json!({"max_tokens": 1})).0, 200);
    backend.ask("release");
    let idle = settled(&mut backend);
    let mut messages = vec![json!({"role": "user", "content": "x".repeat(2000)})];
    for turn in 1..=3 {
        let (status, answer) = chat(port, json!({"messages": messages, "max_tokens": 1}));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(cached(&answer) > 1000, turn > 1, "turn {turn}: {answer}");
        backend.ask("trim");
        let kept = settled(&mut backend) - idle;
        // About 0.55 MB per turn. Each next turn claims a different answer, so each is a separate prompt.
        let most = if turn == 1 { 800_000 } else { 1_300_000 };
        assert!((300_000..most).contains(&kept), "{kept} bytes are kept after turn {turn}");
        messages.push(json!({"role": "assistant", "content": "y"}));
        messages.push(json!({"role": "user", "content": "and?"}));
    }
    assert!(!backend.log().contains("not as known"), "{}", backend.log());
}

#[test]
fn kept_prompts_make_room_for_a_prefill_and_the_continued_one_is_kept_again() {
    let tiny = real::tiny_model().to_str().unwrap();
    // A prompt of 2,000 tokens and its smallest step take 0.62 MB, which leaves 0.28 MB for kept prompts.
    let mut backend = Backend::start(room(900_000), &["--model", tiny, "--port", "0"]);
    let port = backend.listening();
    let ask = |start: &str, turns: usize| {
        let mut messages = vec![json!({"role": "user", "content": format!("{start}{}", "x".repeat(2000))})];
        for _ in 0..turns {
            messages.push(json!({"role": "assistant", "content": "y"}));
            messages.push(json!({"role": "user", "content": "and?"}));
        }
        let (status, answer) = chat(port, json!({"messages": messages, "max_tokens": 1}));
        assert_eq!(status, 200, "{answer}");
        cached(&answer)
    };
    assert_eq!(ask("a", 0), 0);
    assert!(ask("a", 1) > 1000, "its own copy makes room, and is continued");
    assert!(ask("a", 2) > 1000, "and is kept again");
    assert!(ask("b", 0) < 100, "another prompt");
    assert!(ask("a", 3) < 100, "which took the room of the first");
}

#[test]
fn the_buffer_cache_keeps_its_bound() {
    let model = real::tiny_model().to_str().unwrap();
    let mut backend = Backend::start(json!({"cache_limit": 0}), &["--model", model, "--port", "0"]);
    let port = backend.listening();
    assert_eq!(chat(port, json!({})).0, 200);
    assert_eq!(backend.ask("memory")["cache"], 0);
}

#[test]
fn sigterm_tears_down_and_ends_with_0() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    assert_eq!(chat(port, json!({})).0, 200);
    backend.term();
    assert_eq!(backend.event(), json!({"event": "exiting", "code": 0, "error": null}));
    assert_eq!(backend.code(), Some(0));
    assert!(!backend.folder.path().join("link").exists());
}

#[test]
fn sigterm_before_it_listens_ends_it_as_well() {
    let mut backend = Backend::tiny();
    backend.term();
    assert_eq!(backend.code(), Some(0));
    assert!(!backend.folder.path().join("link").exists());
}

#[test]
fn a_taken_port_and_wrong_arguments_end_it_at_once() {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap().port().to_string();
    let model = real::tiny_model().to_str().unwrap();
    for (arguments, code, word) in
        [(["--port", &taken], 1, "in use"), (["--port", "eighty"], 2, "refused to start")]
    {
        let mut backend = Backend::start(json!({}), &[&["--model", model], &arguments[..]].concat());
        let event = backend.event();
        assert_eq!((&event["event"], &event["code"]), (&"exiting".into(), &code.into()), "{event}");
        assert!(event["error"].as_str().unwrap().contains(word), "{event}");
        assert_eq!(backend.code(), Some(code));
    }
}

#[test]
fn a_model_that_does_not_load_is_a_dead_thread_with_the_reason() {
    let mut backend = Backend::start(json!({}), &["--model", "/no/such/model", "--port", "0"]);
    backend.listening();
    let event = backend.event();
    assert_eq!(event["event"], "thread_died");
    assert!(event["error"].as_str().unwrap().contains("/no/such/model"), "{event}");
    let (_late, hello) = connect(backend.folder.path().join("link"));
    assert_eq!((&hello["thread"], &hello["error"]), (&"dead".into(), &event["error"]));
    assert_eq!(backend.child.try_wait().unwrap(), None, "whether it ends is the supervisor's decision");
}

#[test]
fn the_death_of_the_generation_thread_is_reported() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    assert_eq!(chat(port, json!({"stop": 5})).0, 404);
    let event = backend.event();
    assert_eq!(event["event"], "thread_died");
    assert!(event["error"].as_str().unwrap().contains("TypeError"), "{event}");
    backend.term();
    assert_eq!(backend.code(), Some(0));
}

#[test]
fn a_client_that_does_not_read_disturbs_no_other() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    let mut deaf = UnixStream::connect(backend.folder.path().join("link")).unwrap();
    deaf.set_write_timeout(Some(PATIENCE)).unwrap();
    let requests = b"{\"op\":\"memory\"}\n".repeat(1000);
    // Unread answers fill the socket; then the launcher hangs up and writing fails.
    let dropped = (0..1000).any(|_| deaf.write_all(&requests).is_err());
    assert!(dropped, "a million answers were kept for a client that reads none");
    assert_eq!(backend.ask("memory")["reply"], "memory");
    assert_eq!(http(port, Some(SECRET), "GET /health", "").0, 200);
}

/// mlx_lm.server makes its prompt cache without a byte bound; the launcher changes the default of the class. If this
/// fails, a new mlx-lm has another signature: look at `Prompts.install`.
#[test]
fn the_prompt_cache_of_this_mlx_lm_takes_the_byte_bound() {
    let folder = tempfile::tempdir().unwrap();
    mlxctl::internals::backend::launcher::write(folder.path()).unwrap();
    let output = Command::new(real::python())
        .current_dir(folder.path())
        .args([
            "-c",
            "import launcher; launcher.Prompts('s').install(1234)\n\
               from mlx_lm.models.cache import LRUPromptCache as C; print(C().max_bytes, C(3).max_size)",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), "1234 3", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn cached_prompts_stay_below_their_bound() {
    let model = real::tiny_model().to_str().unwrap();
    let grown = |spec: Value| {
        let mut backend = Backend::start(spec, &["--model", model, "--port", "0"]);
        let port = backend.listening();
        for start in 'a'..='e' {
            let content = format!("{start}{}", "x".repeat(1500));
            let messages = json!([{"role": "user", "content": content}]);
            assert_eq!(chat(port, json!({"messages": messages, "max_tokens": 1})).0, 200);
        }
        backend.ask("memory")["active"].as_u64().unwrap()
    };
    // KV of the tiny model: 2 · 2 layers · 2 heads · 16 · 2 bytes = 256 bytes per token, 0.4 MB per prompt.
    let (bounded, unbounded) = (grown(json!({"prompt_cache_bytes": 500_000})), grown(json!({})));
    assert!(bounded + 1_000_000 < unbounded, "{bounded} with a bound of 0.5 MB, {unbounded} without");
}

#[test]
fn an_answer_sent_back_to_be_continued_does_no_harm() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    // Each prompt is exactly what the cache holds of the previous one.
    for (said, next) in [("", "I"), ("I", "am"), ("I am", "a"), ("I am a", "tiny"), ("I am a tiny", "test")] {
        let prompt = format!("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n{said}");
        let body = json!({"prompt": prompt, "max_tokens": 1, "temperature": 0}).to_string();
        let (status, answer) = http(port, Some(SECRET), "POST /v1/completions", &body);
        assert_eq!(status, 200, "{said:?}: {answer} {}", backend.log());
        assert!(answer.contains(&format!("\"text\": \"{next}\"")), "{said:?}: {answer}");
    }
}

/// A generation that takes hours.
fn endless() -> String {
    json!({"prompt": "Hello", "max_tokens": 10_000_000, "logit_bias": real::endless()}).to_string()
}

/// Sends a request and does not wait for its answer.
fn ask_and_leave(port: u16, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!("x-mlxctl-secret: {SECRET}\r\nContent-Length: {length}\r\n\r\n");
    write!(stream, "POST /v1/completions HTTP/1.0\r\n{head}{body}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream
}

#[test]
fn a_plain_answer_whose_client_left_is_ended() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    let mut answer = Vec::new();
    ask_and_leave(port, &endless()).read_to_end(&mut answer).unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "", "{}", backend.log());
    // A request with a seed is served alone: once it is, nothing else is being computed.
    assert_eq!(chat(port, json!({"seed": 1})).0, 200);
    assert!(!backend.log().contains("Traceback"), "leaving is not an error: {}", backend.log());
}

#[test]
fn an_exception_during_an_answer_is_reported_instead_of_closing_the_connection() {
    let mut backend = Backend::tiny();
    let port = backend.listening();
    // The server reads `include_usage` without asking, after the last token.
    let (status, answer) = chat(port, json!({"stream": true, "stream_options": {}}));
    assert_eq!(status, 200);
    assert!(answer.contains("\"message\": \"KeyError") && answer.ends_with("data: [DONE]\n\n"), "{answer}");
    // And float(None) before anything is sent.
    let (status, answer) = chat(port, json!({"logit_bias": {"1": null}}));
    assert!(status == 500 && answer.contains("{\"error\": \"TypeError"), "{answer}");
    assert_eq!(chat(port, json!({})).0, 200);
}

/// Partial characters, tool calls: tokens are generated, but mlx_lm.server writes nothing.
#[test]
fn a_stream_with_tokens_and_without_text_is_kept_alive_and_one_without_tokens_is_not() {
    let folder = tempfile::tempdir().unwrap();
    mlxctl::internals::backend::launcher::write(folder.path()).unwrap();
    let script = "\
import http.server, queue, socket, threading, time
import launcher_answer
launcher_answer.LOOK, launcher_answer.QUIET = 0, 0.01
launcher_answer.Answer.install()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        tokens = queue.Queue()
        self.send_response(200)
        self.send_header('Content-type', 'text/event-stream')
        self.end_headers()
        if self.path == '/tokens':
            for token in range(4):
                tokens.put(token)
                time.sleep(0.02)
                tokens.get()
        else:
            for _ in range(4):
                try: tokens.get(timeout=0.02)
                except queue.Empty: pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for path in '/tokens', '/hang':
    client = socket.create_connection(server.server_address)
    client.sendall(f'GET {path} HTTP/1.0\\r\\n\\r\\n'.encode())
    with client.makefile('rb') as answer: print(path, answer.read().count(b': keepalive\\n\\n'))
";
    let output =
        Command::new(real::python()).current_dir(folder.path()).args(["-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), "/tokens 3\n/hang 0", "{}", String::from_utf8_lossy(&output.stderr));
}

/// mlx_lm's own calls, both kinds of them, with the rule of each registry value in between.
#[test]
fn the_wired_limit_follows_the_registry_wherever_mlx_lm_sets_it() {
    const RECOMMENDED: u64 = 5_000_000_000;
    let folder = tempfile::tempdir().unwrap();
    mlxctl::internals::backend::launcher::write(folder.path()).unwrap();
    let under = |rule: &str| -> Value {
        let mut python = Command::new(real::python());
        python.current_dir(folder.path()).env("HF_HUB_OFFLINE", "1").env("MLX_MPI_LIBNAME", "none");
        let output =
            python.args(["-c", include_str!("wired.py"), rule]).arg(real::tiny_model()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(seen["at_start"], 1, "mlx_lm sets it when the server starts: {seen}");
        // Two generators, each of which sets it and restores the previous value.
        assert_eq!(seen["asked"].as_array().unwrap().len(), 5, "and for each generator: {seen}");
        seen
    };
    let off = under("off");
    assert_eq!(off["reached"], json!([]), "nothing reaches MLX");
    assert_eq!(off["asked"], json!([[RECOMMENDED, 0], [RECOMMENDED, 0], [0, 0], [RECOMMENDED, 0], [0, 0]]));
    let weights = under("weights");
    assert_eq!(weights["reached"], json!([weights["weights"]]), "once, and left alone: {weights}");
    let default = under("default");
    assert_eq!(default["reached"].as_array().unwrap().len(), 5, "{default}");
    assert_eq!(default["reached"][0], RECOMMENDED);
}

/// In bytes that MLX allocates: a single conversation costs none, and several are batched as usual.
#[test]
fn a_conversation_that_is_alone_is_not_copied_before_its_first_token() {
    let folder = tempfile::tempdir().unwrap();
    mlxctl::internals::backend::launcher::write(folder.path()).unwrap();
    let mut python = Command::new(real::python());
    let output = python.current_dir(folder.path()).args(["-c", include_str!("alone.py")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let whole = seen["bytes"].as_u64().unwrap();
    assert!(seen["alone"]["before"].as_u64().unwrap() >= whole * 9 / 10, "mlx_lm copies it: {seen}");
    assert!(seen["alone"]["after"].as_u64().unwrap() < 4096, "{seen}");
    assert!(seen["both"]["after"].as_u64().unwrap() >= whole, "two are: {seen}");
    for way in ["alone", "one of two", "both"] {
        assert_eq!(seen[way]["same"], true, "{way}: {seen}");
    }
    assert_eq!(seen["kept"], true, "{seen}");
}

/// On macOS, send ignores MSG_DONTWAIT; the hook imitates that here.
#[test]
fn a_client_that_stops_reading_keeps_no_backend_from_ending() {
    let hook = tempfile::tempdir().unwrap();
    std::fs::write(hook.path().join("sitecustomize.py"), "import socket\nsocket.MSG_DONTWAIT = 0\n").unwrap();
    let model = real::tiny_model();
    let arguments = ["--model", model.to_str().unwrap(), "--port", "0"];
    let environment = [("PYTHONPATH", hook.path().to_str().unwrap())];
    let mut backend = Backend::start_with(json!({}), &arguments, &environment);
    backend.listening();
    let (mut deaf, _) = connect(backend.folder.path().join("link"));
    deaf.get_ref().set_nonblocking(true).unwrap();
    // Asks until it is dropped or the kernel accepts no more, and reads no answers, so that its buffer fills up.
    let question = format!("{}\n", json!({"op": "x".repeat(50_000)}));
    while deaf.get_mut().write(question.as_bytes()).is_ok() {}
    assert_eq!(backend.ask("dance")["reply"], "error", "others are answered");
    backend.term();
    assert_eq!(backend.code(), Some(0));
}
