//! A real systemd user manager, one per test, if the machine has systemd and allows it: in a mount namespace of its
//! own, in which it looks as if the machine had been booted with systemd. Not running it is not a failure, because
//! `systemd-analyze` checks the unit in any case.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::skipped;

pub struct UserSystemd {
    folder: tempfile::TempDir,
    manager: Child,
}

impl UserSystemd {
    /// `None` if it is not available; prints why.
    pub fn start() -> Option<Self> {
        let systemd = ["/lib/systemd/systemd", "/usr/lib/systemd/systemd"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let Some(systemd) = systemd else {
            skipped("the agent under systemd", "systemd is not installed");
            return None;
        };
        // Short, because sockets are in it.
        let folder = tempfile::Builder::new().prefix("sd").tempdir().unwrap();
        // `exec`, so that the child is systemd itself.
        let script =
            format!("mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && exec {systemd} --user");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        for (name, value) in Self::variables(folder.path()) {
            command.env(name, value);
        }
        let mut started = Self { folder, manager: command.spawn().ok()? };
        let began = Instant::now();
        while !started.runtime().join("systemd/private").exists() {
            if matches!(started.manager.try_wait(), Ok(Some(_))) || began.elapsed() > Duration::from_secs(20)
            {
                let why = "systemd --user does not start here (it needs root, or a machine booted with it)";
                skipped("the agent under systemd", why);
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(started)
    }

    /// What a command needs to find it, and to put its units where it looks for them.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        Self::variables(self.folder.path())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn runtime(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn variables(folder: &Path) -> Vec<(&'static str, PathBuf)> {
        vec![("XDG_RUNTIME_DIR", folder.to_owned()), ("XDG_CONFIG_HOME", folder.join("config"))]
    }
}

impl Drop for UserSystemd {
    fn drop(&mut self) {
        let mut end = Command::new("systemctl");
        let _ = end.args(["--user", "exit"]).envs(self.environment()).stderr(Stdio::null()).status();
        let began = Instant::now();
        while matches!(self.manager.try_wait(), Ok(None)) {
            if began.elapsed() > Duration::from_secs(10) {
                let _ = self.manager.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
