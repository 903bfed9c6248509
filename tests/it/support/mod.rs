//! The harness: a whole instance (registry, supervisor, backends) in a temporary folder, on loopback.

pub mod dice;
pub mod door;
#[cfg(target_os = "linux")]
pub mod hosts;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod program;
mod skipped;
pub mod upstream;

pub use skipped::skipped;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The environment with the real mlx-lm that `scripts/test` prepares, after `mlxctl setup` has adopted it and made
/// the built-in model.
pub fn venv() -> &'static Path {
    static VENV: OnceLock<PathBuf> = OnceLock::new();
    VENV.get_or_init(|| {
        let venv = PathBuf::from(
            std::env::var_os("MLXCTL_TEST_VENV")
                .expect("MLXCTL_TEST_VENV does not name an environment: run the tests with scripts/test"),
        );
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("models.toml");
        let text = format!(
            "[paths]\nroot = {:?}\nvenv = {venv:?}\n[network]\nhost = \"127.0.0.1\"\n\
             [[model]]\nname = \"tiny\"\nrepo = \"builtin:tiny\"\nport = 1\n",
            folder.path()
        );
        std::fs::write(&config, text).unwrap();
        let setup = Command::new(env!("CARGO_BIN_EXE_mlxctl"))
            .arg("--config")
            .arg(config)
            .arg("setup")
            .output()
            .unwrap();
        assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
        venv
    })
}

/// The folder of the stand-in for `mlx_lm.server`.
pub fn fakes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes")
}

/// Makes `to` a copy of the program `from`, through another process: see [`program`].
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("/bin/cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "{} → {}", from.display(), to.display());
}

/// A free port that is not given out again while this process lives: not to another test, not to those of another
/// checkout, and not by the system, whose own ports are above (`ip_local_port_range`, 32768 and up; macOS: 49152 and
/// up).
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const ALL: u32 = 12_000;
    /// Locked while the process lives.
    static GIVEN: Mutex<Vec<std::fs::File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join("mlxctl-test-ports");
    std::fs::create_dir_all(&folder).unwrap();
    // Two processes rarely begin at the same place, so few ports are tried twice.
    let begin = std::process::id().wrapping_mul(97);
    for number in 0..ALL {
        let port = u16::try_from(FIRST + begin.wrapping_add(number) % ALL).unwrap();
        let file = std::fs::File::create(folder.join(port.to_string())).unwrap();
        // The lock also excludes other file descriptions of this process.
        if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            GIVEN.lock().unwrap().push(file);
            return port;
        }
    }
    panic!("no port is free");
}

#[test]
fn no_port_is_given_twice() {
    let given: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| [free_port(), free_port()])).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let different: std::collections::HashSet<_> = given.iter().collect();
    assert_eq!(different.len(), given.len(), "{given:?}");
}

/// A model entry for [`Instance::new`].
pub struct Entry {
    name: String,
    start: &'static str,
    /// What it serves, if not the instance's default.
    repo: Option<String>,
    /// Lines below `[[model]]`, in TOML.
    more: String,
    pub port: u16,
}

impl Entry {
    pub fn new(name: &str, start: &'static str) -> Self {
        Self { name: name.to_owned(), start, repo: None, more: String::new(), port: free_port() }
    }

    /// Serves another repository or folder.
    pub fn repo(self, repo: &str) -> Self {
        Self { repo: Some(repo.to_owned()), ..self }
    }

    /// Adds lines of TOML.
    pub fn with(mut self, toml: &str) -> Self {
        self.more.push_str(toml);
        self.more.push('\n');
        self
    }

    /// Adds faults of the stand-in.
    pub fn faults(self, faults: &[&str]) -> Self {
        let args: Vec<_> = faults.iter().map(|fault| format!("\"--fault\", {fault:?}")).collect();
        self.with(&format!("server = {{ extra_args = [{}] }}", args.join(", ")))
    }
}

/// A registry in a folder of its own, and the supervisor that runs it.
pub struct Instance {
    folder: tempfile::TempDir,
    pub models: Vec<Entry>,
    /// Lines below `[memory]`, in TOML.
    pub memory: String,
    serve: Option<Child>,
    /// Whether the stand-in serves instead of the real server.
    fake: bool,
    env: Vec<(&'static str, String)>,
    broken_model: bool,
}

impl Instance {
    /// With the stand-in for `mlx_lm.server`.
    pub fn fake(models: Vec<Entry>) -> Self {
        Self::make(models, true, false)
    }

    /// With the real `mlx_lm.server` and the built-in tiny model.
    pub fn real(models: Vec<Entry>) -> Self {
        Self::make(models, false, false)
    }

    /// With the real `mlx_lm.server` and a model that it cannot load.
    pub fn real_with_broken_model(models: Vec<Entry>) -> Self {
        Self::make(models, false, true)
    }

    fn make(models: Vec<Entry>, fake: bool, broken_model: bool) -> Self {
        // Short, because Unix sockets are below it.
        let folder = tempfile::Builder::new().prefix("mlx").tempdir().unwrap();
        let instance = Self {
            folder,
            models,
            memory: "reserve = []".to_owned(),
            serve: None,
            fake,
            env: Vec::new(),
            broken_model,
        };
        std::fs::create_dir(instance.root()).unwrap();
        std::fs::create_dir(instance.root().join("model")).unwrap();
        write_model(&instance.root().join("model"));
        instance.write_registry();
        instance
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("r")
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("models.toml")
    }

    /// Rewrites the registry from `models`.
    pub fn write_registry(&self) {
        let root = self.root();
        let repo = if self.fake || self.broken_model {
            root.join("model").display().to_string()
        } else {
            "builtin:tiny".to_owned()
        };
        let mut text = format!(
            "[paths]\nroot = {root:?}\nvenv = {:?}\n[network]\nhost = \"127.0.0.1\"\n[memory]\n{}\n",
            if self.fake { self.fake_venv() } else { venv().to_owned() },
            self.memory
        );
        for model in &self.models {
            let Entry { name, start, repo: own, more, port } = model;
            let repo = own.as_ref().unwrap_or(&repo);
            text.push_str(&format!(
                "[[model]]\nname = {name:?}\nrepo = {repo:?}\nport = {port}\nstart = {start:?}\nsize = \"1GB\"\n{more}\n"
            ));
        }
        std::fs::write(self.config(), text).unwrap();
    }

    /// The environment of the tests with the stand-in in front, because a backend imports only from its environment.
    fn fake_venv(&self) -> PathBuf {
        let (real, fake) = (venv(), self.folder.path().join("venv"));
        if fake.exists() {
            return fake;
        }
        let lib = std::fs::read_dir(real.join("lib")).unwrap().next().unwrap().unwrap().file_name();
        let packages = Path::new("lib").join(lib).join("site-packages");
        std::fs::create_dir_all(fake.join(&packages)).unwrap();
        std::fs::create_dir(fake.join("bin")).unwrap();
        let paths = format!("{}\n{}\n", fakes().display(), real.join(&packages).display());
        std::fs::write(fake.join(packages).join("fakes.pth"), paths).unwrap();
        std::os::unix::fs::symlink(real.join("bin/python"), fake.join("bin/python")).unwrap();
        for file in ["pyvenv.cfg", "mlxctl-venv.json"] {
            std::fs::copy(real.join(file), fake.join(file)).unwrap();
        }
        fake
    }

    /// An `mlxctl` command on this instance.
    pub fn mlxctl(&self, args: &[&str]) -> Command {
        let binary = std::env::var_os("MLXCTL_BINARY");
        let mut command = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_mlxctl").into()));
        command.arg("--config").arg(self.config()).args(args).stdin(Stdio::null());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// From now on commands have this in their environment.
    pub fn env(&mut self, name: &'static str, value: &str) {
        self.env.push((name, value.to_owned()));
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.mlxctl(args).output().unwrap()
    }

    /// Runs it and checks its exit code; returns its stdout.
    pub fn expect(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}\nstdout: {}\nstderr: {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sets the lines of `[memory]`.
    pub fn memory(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.memory);
        self.write_registry();
        self
    }

    /// Starts the supervisor and waits until it answers.
    pub fn serve(mut self) -> Self {
        self.serve_again();
        self
    }

    /// Starts a supervisor after an earlier one is gone, with a place at which it dies, and does not wait.
    pub fn serve_until(&mut self, place: Option<&str>) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("serve.log"))
            .unwrap();
        let mut command = self.mlxctl(&["serve"]);
        if let Some(place) = place {
            command.env("MLXCTL_DIE_AT", place);
        }
        self.serve = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Whether the supervisor is gone, which is then forgotten.
    pub fn supervisor_gone(&mut self) -> bool {
        let gone = self.serve.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if gone {
            self.serve = None;
        }
        gone
    }

    /// Starts a supervisor after an earlier one is gone.
    pub fn serve_again(&mut self) {
        self.serve_until(None);
        self.wait_until_up();
    }

    /// Starts a supervisor through another command, which becomes it.
    pub fn serve_within(&mut self, prefix: &[&str]) {
        let serve = self.mlxctl(&["serve"]);
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).arg(serve.get_program()).args(serve.get_args()).stdin(Stdio::null());
        command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.serve = Some(command.spawn().unwrap());
        self.wait_until_up();
    }

    fn wait_until_up(&self) {
        let began = Instant::now();
        while !matches!(self.run(&["status", "--json"]).status.code(), Some(0)) {
            assert!(began.elapsed() < PATIENCE, "the supervisor does not start: {}", self.serve_log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The output of the supervisor.
    pub fn serve_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }

    /// Process id of the supervisor.
    pub fn supervisor_pid(&self) -> i32 {
        self.serve.as_ref().unwrap().id().cast_signed()
    }

    /// Kills the supervisor as a crash would, and waits until it is gone.
    pub fn kill_supervisor(&mut self) {
        let Some(mut child) = self.serve.take() else { return };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the supervisor to end and waits for it; returns its exit code.
    pub fn end(&mut self) -> Option<i32> {
        signal(self.serve.as_ref()?.id().cast_signed(), nix::sys::signal::Signal::SIGTERM);
        self.wait_for_end()
    }

    /// Waits until the supervisor has ended; returns its exit code.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        let mut child = self.serve.take()?;
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "the supervisor does not end: {}", self.serve_log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `mlxctl status --json`.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.expect(0, &["status", "--json"])).unwrap()
    }

    /// One model's part of the status.
    pub fn model(&self, name: &str) -> Value {
        let status = self.status();
        let models = status["models"].as_array().unwrap();
        models
            .iter()
            .find(|model| model["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {status}"))
            .clone()
    }

    /// Waits until a model is as wanted.
    pub fn wait_for(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let model = self.model(name);
            if wanted(&model) {
                return model;
            }
            let waited = began.elapsed();
            // Two loads of the real server take half a minute where the machine has ten times as much to do as it can.
            assert!(waited < 3 * PATIENCE, "{name} does not get there: {model:#}\n{}", self.serve_log());
            // Each check is a process: the longer it takes, the less often to check, so as not to delay the model.
            std::thread::sleep((waited / 20).clamp(Duration::from_millis(10), Duration::from_millis(250)));
        }
    }

    /// Waits until a model is in a state.
    pub fn wait_state(&self, name: &str, state: &str) -> Value {
        self.wait_for(name, |model| model["state"] == state)
    }

    /// Process id of a live backend.
    pub fn pid(&self, name: &str) -> i32 {
        i32::try_from(self.model(name)["pid"].as_i64().expect("a live backend")).unwrap()
    }

    /// The gate of a model.
    pub fn gate(&self, name: &str) -> SocketAddr {
        let port = self.models.iter().find(|model| model.name == name).unwrap().port;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Everything in the history so far.
    pub fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.root().join("state/events.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// As [`Instance::events`], if writers die in the middle of a line and the file is rotated.
    #[cfg(target_os = "linux")]
    pub fn events_so_far(&self) -> Vec<Value> {
        let read =
            |name: &str| std::fs::read_to_string(self.root().join("state").join(name)).unwrap_or_default();
        let text = read("events.1.jsonl") + &read("events.jsonl");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let Some(mut child) = self.serve.take() else {
            // A test that failed while there was no supervisor leaves its backends to us.
            let launcher = self.root().join("run/launcher.py");
            for found in mlxctl::internals::host::system().find_by_argument(&launcher.to_string_lossy()) {
                signal(found.who.pid, nix::sys::signal::Signal::SIGKILL);
            }
            return;
        };
        // A failed test leaves its supervisor running; on the second signal that ends its backends without a drain.
        for _ in 0..2 {
            signal(child.id().cast_signed(), nix::sys::signal::Signal::SIGTERM);
            std::thread::sleep(Duration::from_millis(50));
        }
        let began = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The files of a model of two layers whose weights are eight bytes.
fn write_model(folder: &Path) {
    let config = r#"{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"intermediate_size":128,"vocab_size":300,"max_position_embeddings":4096}"#;
    let header = r#"{"w":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend_from_slice(header.as_bytes());
    weights.extend_from_slice(&[0; 8]);
    std::fs::write(folder.join("config.json"), config).unwrap();
    std::fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    std::fs::write(folder.join("model.safetensors"), weights).unwrap();
}

/// One request on the control socket; returns the whole response.
pub fn control(socket: &Path, method: &str, path: &str) -> String {
    try_control(socket, method, path, "").unwrap()
}

/// As [`control`], with a body, if the supervisor may die at any moment.
pub fn try_control(socket: &Path, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A client that retries until it has its answer.
pub fn insist(gate: SocketAddr, body: &str) -> String {
    let began = Instant::now();
    loop {
        let answer = try_http(gate, "POST", "/v1/chat/completions", body);
        if let Some((200, answer)) = answer {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "no answer: {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Signals one process that a test started.
pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    mlxctl::internals::host::identify(pid).unwrap().is_some()
}

/// A child of a process.
pub fn child_of(pid: i32) -> Option<i32> {
    let listed = Command::new("ps").args(["-A", "-o", "ppid=,pid="]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut pairs = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().map(str::parse::<i32>);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    });
    pairs.find(|(parent, _)| *parent == pid).map(|(_, child)| child)
}

/// One HTTP request on a connection of its own; returns status and body.
pub fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    try_http(address, method, path, body).expect("an answer")
}

/// As [`http`]; `None`: refused, cut off, or incomplete.
pub fn try_http(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
