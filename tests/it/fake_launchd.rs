//! A launchd that behaves as documented (`tests/fakes/launchctl`), one per test, which ends with the test.

use crate::support::program;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The length of its second: a throttle of 10 s is over in half a second.
const SECOND: &str = "0.05";

pub struct FakeLaunchd {
    pub folder: tempfile::TempDir,
    daemon: Child,
}

impl FakeLaunchd {
    /// Its jobs live in a home folder of their own.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_owned();
        Self::start_in(folder, &home)
    }

    /// Its jobs share this user's home and its caches.
    pub fn start_at_home() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap();
        Self::start_in(tempfile::tempdir().unwrap(), &home)
    }

    fn start_in(folder: tempfile::TempDir, home: &Path) -> Self {
        let daemon = Command::new(interpreter())
            .arg(Self::source())
            .arg("__launchd")
            .env("FAKE_LAUNCHD", folder.path())
            .env("FAKE_LAUNCHD_SECOND", SECOND)
            .env("HOME", home)
            .spawn()
            .unwrap();
        let launchd = Self { folder, daemon };
        wait("launchd listens", || launchd.path("launchd.sock").exists());
        // Calls need the environment too, and a test must not change its own. Uses the interpreter itself rather than
        // a shim, because a test calls launchctl a dozen times.
        let wrapper = format!(
            "#!/bin/sh\nFAKE_LAUNCHD='{}' exec '{}' -S -E '{}' \"$@\"\n",
            launchd.folder.path().display(),
            interpreter().display(),
            Self::source().display()
        );
        program::write(&launchd.program(), &wrapper);
        launchd
    }

    /// The program to call instead of `/bin/launchctl`.
    pub fn program(&self) -> PathBuf {
        self.path("launchctl")
    }

    /// Below its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sets one of its knobs.
    pub fn set(&self, knob: &str, text: &str) {
        std::fs::write(self.path(knob), text).unwrap();
    }

    /// Calls it as a person would; returns exit code and stdout.
    pub fn launchctl(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(self.program()).args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// The verbs that it was called with so far, except `print`.
    pub fn verbs(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        let verbs = calls.lines().filter_map(|line| line.split(' ').next());
        verbs.filter(|verb| *verb != "print").map(str::to_owned).collect()
    }

    fn source() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/launchctl")
    }
}

impl Drop for FakeLaunchd {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its jobs; the pid is valid because it is our child.
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}

/// The Python interpreter that `python3` resolves to.
fn interpreter() -> PathBuf {
    static FOUND: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let find = || {
        let output =
            Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    FOUND.get_or_init(find).clone()
}

/// Waits until `holds`; panics after a time that no machine needs.
pub fn wait(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
