//! A backend is recorded before it runs, starts with a clean environment, and a failed start says why.

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mlxctl::internals::backend::spec::{SCHEMA, Spec};
use mlxctl::internals::backend::{exec, record};
use mlxctl::internals::host::{self, Exit, Host, Identity, Signal};

/// Far longer than anything here takes; ends a test that hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// For a spawn that holds nothing.
fn nothing() -> std::fs::File {
    std::fs::File::open("/dev/null").unwrap()
}

struct Run {
    folder: tempfile::TempDir,
    host: Arc<dyn Host>,
    started: std::cell::Cell<Option<Identity>>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(who) = self.started.get() {
            let _ = self.host.signal(who, Signal::Kill);
        }
    }
}

impl Run {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), host: host::system(), started: None.into() }
    }

    fn run(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.run().join(name)
    }

    fn shell(&self, script: &str) -> Spec {
        Spec {
            schema: SCHEMA,
            model: "32b".to_owned(),
            repo: String::new(),
            generation: 7,
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![
                ("ONLY".to_owned(), "this".to_owned()),
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ],
            cwd: self.run().to_owned(),
            log: self.file("32b.log"),
            link: self.file("32b.sock"),
            secret: "s".to_owned(),
            cache_limit: None,
            prompt_cache_bytes: Some(1),
            room: None,
            wired: mlxctl::internals::registry::Wired::Off,
            context: None,
            prompt_store: None,
            settings: "hash".to_owned(),
            reserved: 1,
            nice: 0,
            group: None,
        }
    }

    fn start(&self, spec: &Spec) -> Identity {
        let file = record::write_spec(self.run(), spec).unwrap();
        let who = exec::spawn(Path::new(env!("CARGO_BIN_EXE_mlxctl")), &file, nothing()).unwrap();
        self.started.set(Some(who));
        who
    }

    async fn finish(&self, spec: &Spec) -> (Identity, Exit) {
        let who = self.start(spec);
        let watch = self.host.watch(who).unwrap();
        (who, tokio::time::timeout(LIMIT, watch).await.unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("32b.log")).unwrap_or_default()
    }
}

#[tokio::test]
async fn the_record_names_the_process_before_it_runs() {
    let run = Run::new();
    // The program finds at its start what the next supervisor would find if this one died at that moment.
    let spec = run.shell("cat 32b.live.json > seen.json; exit 3");
    let (who, exit) = run.finish(&spec).await;
    assert_eq!(exit, Exit::Code(3), "{}", run.log());
    let seen: mlxctl::internals::backend::spec::Record =
        serde_json::from_slice(&std::fs::read(run.file("seen.json")).unwrap()).unwrap();
    assert_eq!(seen.identity, who);
    assert_eq!(seen.spec, spec);
    assert_eq!(seen.boot_id, host::boot_id().unwrap());
    assert_eq!(Some(seen), record::read_record(run.run(), "32b").unwrap());
    let mode = |name| std::fs::metadata(run.file(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("32b.json"), mode("32b.live.json")], [0o600, 0o600]);
}

#[tokio::test]
async fn what_the_exec_step_holds_is_released_once_the_record_exists() {
    let run = Run::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let spec = run.shell("sleep 600");
    let file = record::write_spec(run.run(), &spec).unwrap();
    let held = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
    let who = exec::spawn(Path::new(env!("CARGO_BIN_EXE_mlxctl")), &file, held).unwrap();
    run.started.set(Some(who));
    // Ends when the last writer has closed it; the started program is not one of them.
    let closed = tokio::task::spawn_blocking(move || std::io::read_to_string(reader));
    assert_eq!(tokio::time::timeout(LIMIT, closed).await.unwrap().unwrap().unwrap(), "");
    assert_eq!(record::read_record(run.run(), "32b").unwrap().map(|record| record.identity), Some(who));
    assert_eq!(run.host.identify(who.pid).unwrap(), Some(who), "it is still running");
}

#[tokio::test]
async fn it_leads_its_own_session_with_only_the_given_environment() {
    let run = Run::new();
    let spec = run.shell("env > env; ps -o pid= -o pgid= -o sess= -p $$ > ids; pwd -P > cwd");
    let (who, _) = run.finish(&spec).await;
    let read = |name| std::fs::read_to_string(run.file(name)).unwrap();
    let ids: Vec<i32> = read("ids").split_ascii_whitespace().take(2).map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids, [who.pid, who.pid], "leads its group");
    let env = read("env");
    let names: HashSet<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    let shells_own = HashSet::from(["PWD", "OLDPWD", "SHLVL", "_"]);
    assert_eq!(&names - &shells_own, HashSet::from(["ONLY", "PATH"]));
    assert_eq!(Path::new(read("cwd").trim()), run.run().canonicalize().unwrap());
}

#[tokio::test]
async fn the_log_is_appended_to() {
    let run = Run::new();
    std::fs::write(run.file("32b.log"), "before\n").unwrap();
    run.finish(&run.shell("echo out; echo err >&2")).await;
    assert_eq!(run.log(), "before\nout\nerr\n");
}

#[tokio::test]
async fn no_descriptor_of_the_supervisor_is_inherited() {
    let run = Run::new();
    let mut leak = std::fs::File::create(run.file("leak")).unwrap();
    leak.write_all(b"x").unwrap();
    // As a careless library would leave it: open across exec.
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    run.finish(&run.shell("ls -l /dev/fd/ > fds")).await;
    let fds = std::fs::read_to_string(run.file("fds")).unwrap();
    assert!(fds.contains("32b.log"), "the listing is of open files: {fds}");
    assert!(!fds.contains("leak"), "{fds}");
}

#[tokio::test]
async fn signals_have_their_default_actions() {
    let run = Run::new();
    // A shell cannot reset signals that were ignored when it started; Rust ignores SIGPIPE.
    let (_, exit) = run.finish(&run.shell("kill -PIPE $$; exit 0")).await;
    assert_eq!(exit, Exit::Signal(nix::libc::SIGPIPE));
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let run = Run::new();
    let spec = Spec { argv: vec!["/nonexistent/venv/bin/python".to_owned()], ..run.shell("") };
    assert_eq!(run.finish(&spec).await.1, Exit::Code(127));
    assert!(run.log().starts_with("mlxctl: cannot execute /nonexistent/venv/bin/python: "), "{}", run.log());
    assert_eq!(record::read_record(run.run(), "32b").unwrap(), None, "no record of what never ran");
}

#[tokio::test]
async fn a_folder_that_is_missing_is_named() {
    let run = Run::new();
    let (_, exit) = run.finish(&Spec { cwd: "/nonexistent".into(), ..run.shell("true") }).await;
    assert_eq!(exit, Exit::Code(127));
    assert!(run.log().starts_with("mlxctl: cannot enter /nonexistent: "), "{}", run.log());
}

#[test]
fn a_spec_that_is_damaged_fails_by_name() {
    let run = Run::new();
    std::fs::write(run.file("32b.json"), "{\"schema\":").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mlxctl"));
    let output = command.arg("__exec").arg(run.file("32b.json")).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot parse") && said.contains("32b.json"), "{said}");
}

#[test]
fn a_binary_that_is_missing_is_an_error_of_the_spawn() {
    let error = exec::spawn(Path::new("/nonexistent/mlxctl"), Path::new("x.json"), nothing()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
