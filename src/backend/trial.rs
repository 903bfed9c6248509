//! Tests whether a new Python environment works, by serving one token with it, isolated from everything else.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout_at};

use super::launch::{self, Launch, Limits};
use super::link::{Link, LinkEvent, Message};
use super::{client, launcher, logs, record};
use crate::registry::Registry;
use crate::units::Bytes;

/// Time between attempts to connect to the launcher, and between checks whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// Time it gets to end after SIGTERM; SIGKILL can strand wired memory on a Mac.
const TEAR_DOWN: Duration = Duration::from_secs(20);

const MODEL: &str = "[[model]]\nname = \"trial\"\nrepo = \"builtin:tiny\"\nport = 1\n";

/// Starts the launcher and the real `mlx_lm.server` with this interpreter and this model folder, completes one token,
/// and ends it. Loopback only, in a temporary folder.
///
/// # Errors
/// One sentence on why it failed: from its log, from its answer, or that `limit` has passed.
pub async fn one_token(python: &Path, model: &Path, limit: Duration) -> Result<(), String> {
    let folder = tempfile::Builder::new().prefix("mlx").tempdir().map_err(words("make a folder"))?;
    let mut backend = Backend::start(folder.path(), python, model).map_err(words("start it"))?;
    let done = backend.answer(Instant::now() + limit).await;
    let ended = backend.end().await;
    done.and(ended)
}

fn words(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("cannot {what}: {error}")
}

struct Backend {
    child: Child,
    link: std::path::PathBuf,
    log: std::path::PathBuf,
    secret: String,
}

impl Backend {
    fn start(folder: &Path, python: &Path, model: &Path) -> io::Result<Self> {
        let registry = Registry::parse(&folder.join("models.toml"), MODEL)
            .map_err(|problems| io::Error::other(problems.plain()))?;
        let entry = registry.models.first().ok_or_else(|| io::Error::other("no model"))?;
        let (link, log) = (folder.join("s"), folder.join("log"));
        let secret = launch::secret()?;
        let launch = Launch {
            model: entry,
            served: &model.to_string_lossy(),
            draft: None,
            environment: &[],
            python,
            // Not used: the trial's model has one rank.
            binary: Path::new("mlxctl"),
            generation: 1,
            reserved: Bytes::ZERO,
            limits: &Limits::default(),
            run: folder,
            state: folder,
            link: link.clone(),
            log: log.clone(),
            cwd: folder,
            secret: secret.clone(),
        };
        let spec = launch.spec(|name| std::env::var(name).ok());
        launcher::write(folder)?;
        record::write_spec(folder, &spec)?;
        let output = fs_err::File::create(&log)?.into_file();
        let child = Command::new(python)
            .args(spec.argv.iter().skip(1))
            .env_clear()
            .envs(spec.env)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(0)
            .spawn()?;
        Ok(Self { child, link, log, secret })
    }

    async fn answer(&mut self, deadline: Instant) -> Result<(), String> {
        let port = match timeout_at(deadline, self.port()).await {
            Ok(port) => port?,
            Err(_) => return Err(self.last_words("it never listened")),
        };
        match timeout_at(deadline, client::one_token(port, &self.secret)).await {
            Ok(Ok(answer)) if answer.status == 200 => Ok(()),
            Ok(Ok(answer)) => {
                Err(self.last_words(&format!("it answered {}: {}", answer.status, answer.error())))
            }
            Ok(Err(error)) => Err(self.last_words(&format!("it gave no answer ({error})"))),
            Err(_) => Err(self.last_words("it never answered")),
        }
    }

    /// Waits for the port it listens on; an error if it ends before.
    async fn port(&mut self) -> Result<u16, String> {
        let mut link = loop {
            self.lives()?;
            match Link::connect(&self.link).await {
                Ok(link) => break link,
                Err(_) => sleep(PAUSE).await,
            }
        };
        loop {
            match link.next().await {
                Ok(Message::Event(
                    LinkEvent::Hello { port: Some(port), .. } | LinkEvent::Listening { port },
                )) => return Ok(port),
                Ok(_) => {}
                Err(_) => return Err(self.last_words("it ended during startup")),
            }
        }
    }

    fn lives(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.last_words(&format!("it ended ({status})"))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// `what`, followed by the last line with an error in the log, else its last line.
    fn last_words(&self, what: &str) -> String {
        let log = logs::since(&self.log, logs::Mark::default());
        let mut lines = log.lines().rev().filter(|line| !line.trim().is_empty());
        let line = lines.clone().find(|line| line.contains("Error")).or_else(|| lines.next());
        line.map_or_else(|| what.to_owned(), |line| format!("{what}: {}", line.trim()))
    }

    /// Sends SIGTERM, and after [`TEAR_DOWN`] SIGKILL, to the whole process group.
    async fn end(&mut self) -> Result<(), String> {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let until = Instant::now() + TEAR_DOWN;
        if matches!(self.child.try_wait(), Ok(None)) {
            // Our child, not waited for yet, so its pid cannot have been reused.
            let _ = killpg(group, Signal::SIGTERM);
        }
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                self.kill();
                return Err(self.last_words("it did not end"));
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    fn kill(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}
