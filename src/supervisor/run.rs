//! The loop: sets up, adopts, serves, ends.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::adopt::{self, Found};
use super::awake::Awake;
use super::driver::Driver;
use super::give_way::GivingWay;
use super::handle::{Handle, Input};
use super::hours;
use super::journal::Journal;
use super::learned::Learned;
use super::lock::{self, LockError};
use super::panics::Panics;
use super::power::PowerState;
use super::rest::Rest;
use super::router::Routing;
use super::tell::notifier;
use super::view::Glance;
use crate::backend::launcher;
use crate::clock::Moment;
use crate::gate::Listening;
use crate::host::posix;
use crate::host::{Host, Priority};
use crate::lifecycle::{Event, Fleet, Name, Signed};
use crate::memory::pressure::Policy;
use crate::metrics::{Listener, Noted};
use crate::notify::Trouble;
use crate::registry::Registry;

/// The longest sleep of the loop. Its timer stands still while a Mac sleeps (`CLOCK_UPTIME_RAW`), deadlines do
/// not: so after a sleep a deadline is at most this late.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// How long the loop goes on after its end, so that whoever waits for an outcome is told it, and reads it.
const LAST_ANSWERS: Duration = Duration::from_millis(50);

/// What a supervisor is made from.
pub struct Options {
    /// The registry in force.
    pub registry: Registry,
    pub host: Arc<dyn Host>,
    /// Our own binary, which is also the exec step of backends.
    pub binary: PathBuf,
}

/// Why a supervisor does not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another one runs.
    #[error(transparent)]
    Lock(LockError),
    /// A folder or file that it cannot do without.
    #[error("{what}")]
    Io {
        /// What could not be done.
        what: &'static str,
        source: std::io::Error,
    },
}

/// A supervisor that is up.
pub struct Supervisor {
    driver: Driver,
    inbox: mpsc::UnboundedReceiver<Input>,
    handle: Handle,
    reports: mpsc::UnboundedReceiver<(String, crate::gate::Report)>,
    router_reports: mpsc::UnboundedReceiver<Listening>,
    found: Found,
}

impl Supervisor {
    /// Makes folders, takes the lock, reads what earlier ones left, opens the gates. Nothing is started yet.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(options: Options) -> Result<Self, StartError> {
        let Options { registry, host, binary } = options;
        let io = |what| move |source| StartError::Io { what, source };
        let paths = &registry.paths;
        for folder in [&paths.root, &paths.logs, &paths.state] {
            fs::create_dir_all(folder).map_err(io("cannot make a folder of the registry's [paths]"))?;
        }
        private_folder(&paths.run).map_err(io("cannot make the run folder"))?;
        let lock = lock::take(&paths.run).map_err(StartError::Lock)?;
        launcher::write(&paths.run).map_err(io("cannot write the launcher"))?;
        crate::durable::sweep(&paths.state);
        let found = adopt::find(&paths.run, &*host);
        let journal = Journal::open(&paths.state);
        let (learned, problem) = Learned::open(&paths.state);
        let (inbox, received) = mpsc::unbounded_channel();
        let (reports, reported) = mpsc::unbounded_channel();
        let (routing, router_reports) = mpsc::unbounded_channel();
        let models = registry.models.iter().map(|model| {
            (
                Name::from(model.name.as_str()),
                hours::policy(&*host, model),
                adopt::last_generation(&found, &model.name),
            )
        });
        let handle = Handle::new(inbox.clone());
        let metrics_listener = Listener::spawn(handle.clone());
        metrics_listener.listen(&registry);
        let notifier = notifier(&registry, &journal, &inbox);
        let seed = u64::from(std::process::id()) ^ u64::try_from(host.now().0.as_nanos()).unwrap_or_default();
        let fleet = Fleet::new(models, seed);
        let policy = Policy::new(registry.pressure.clone());
        let registry_seen = super::reload::written(&registry.file);
        let power = PowerState::watch(&host, registry.power, &inbox);
        let awake = Awake::new(host.clone());
        let slept = host.now().since(host.awake());
        let mut driver = Driver {
            started: host.now(),
            host,
            registry: Arc::new(registry),
            registry_problem: None,
            registry_seen,
            binary,
            fleet,
            slots: HashMap::new(),
            journal,
            noted: Noted::new(),
            metrics_listener,
            routing: Routing::new(routing),
            learned,
            notifier,
            trouble: Trouble::default(),
            followers: Vec::new(),
            replies: HashMap::new(),
            next_waiter: 0,
            inbox: inbox.clone(),
            reports,
            finished: false,
            policy,
            giving_way: GivingWay::default(),
            priority: Priority::Normal,
            glance: Glance::default(),
            look_due: Moment::default(),
            power,
            awake,
            strays: Vec::new(),
            upkeep: Moment::default(),
            rest: Rest::default(),
            leaving: None,
            panics: Panics::default(),
            short_now: false,
            slept,
            disk_problem: None,
            lock: Arc::new(lock),
        };
        if let Some(problem) = problem {
            driver.note(None, "state_problem", &problem);
        }
        for model in driver.registry.models.clone() {
            driver.open_slot(Arc::new(model));
        }
        driver.follow_router();
        Ok(Self { driver, inbox: received, handle, reports: reported, router_reports, found })
    }

    /// A way into the loop.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until it was told to end and every backend is gone, or until it was told to hand over.
    pub async fn run(self) {
        let Self { mut driver, mut inbox, mut reports, mut router_reports, found, handle: _ } = self;
        driver.note(None, "up", concat!("supervisor ", env!("CARGO_PKG_VERSION"), " is up"));
        driver.look_for_panics();
        driver.adopt(found);
        driver.look_at_programs();
        driver.keep_hours();
        driver.handle(Event::Boot);
        while !driver.finished && !driver.leaves() {
            let now = driver.host.now();
            let due = driver
                .fleet
                .deadline()
                .into_iter()
                .chain(driver.next_look())
                .fold(driver.upkeep, Moment::min);
            let wait = driver.patience(due.since(now).min(LONGEST_SLEEP));
            tokio::select! {
                Some(input) = inbox.recv() => driver.take(input),
                Some((model, report)) = reports.recv() => driver.heard(&model, report),
                Some(listening) = router_reports.recv() => driver.heard_router(listening),
                () = tokio::time::sleep_until(Instant::now() + wait) => driver.tick(),
            }
            driver.keep_house();
        }
        let end = Instant::now() + LAST_ANSWERS;
        while let Ok(Some(input)) = tokio::time::timeout_at(end, inbox.recv()).await {
            driver.take(input);
        }
        driver.close().await;
    }
}

impl Driver {
    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => {
                if matches!(event, Event::Of { signed: Signed::Answered, .. }) {
                    // Nobody may have looked since the last model went, and requests wait for this one.
                    self.look_at_programs();
                }
                self.handle(event);
            }
            Input::Ask(ask) => self.asked(ask),
            Input::Outcome(name, verb, outcome, answer) => {
                let done = self.done(&name, verb, outcome);
                // The asker may have gone.
                drop(answer.send(done));
            }
            Input::Others(others) => self.others_answered(*others),
            Input::Power(power) => self.powered(power),
            Input::LogReopened(name, generation, done) => self.log_reopened(&name, generation, done),
            Input::Notified(outcome) => self.notified(outcome),
            Input::PutAway(name, who) => self.was_put_away(&name, who),
            Input::Trimmed(name, freed, answer) => {
                let done = self.trimmed(&name, freed);
                drop(answer.send(done));
            }
            Input::Forgotten(name, freed, answer) => {
                let done = self.forgotten(&name, freed);
                drop(answer.send(done));
            }
        }
    }

    /// Time has passed; nothing to do is the usual case and costs nothing.
    fn tick(&mut self) {
        let now = self.host.now();
        if self.fleet.deadline().is_some_and(|due| due <= now) {
            self.handle(Event::Tick);
        }
        if self.next_look().is_some_and(|due| due <= now) {
            self.look();
        }
    }
}

/// SIGTERM and SIGINT: everything down, then the end; a second one skips the drains. During a hand-over: the end at
/// once, with the backends up. SIGHUP is the end as well where there is a terminal, which was closed then; a service has
/// none, and reads the registry again. Ends with the process.
///
/// # Errors
/// The system's, if it takes no handlers.
pub fn on_signals(handle: Handle, config: PathBuf) -> std::io::Result<()> {
    let ends_with_terminal = posix::ends_with_terminal();
    let mut signals = signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    tokio::spawn(async move {
        let mut asked = false;
        while let Some(signal) = signals.next().await {
            if signal == SIGHUP && ends_with_terminal {
                // Kernel and shell may both send it: a second one is no impatience.
                tracing::info!("the terminal was closed: everything is stopped");
                asked = true;
                handle.shutdown(false);
            } else if signal == SIGHUP {
                // What came of it is in the history.
                let _ = handle.reload(super::read_registry(&config), false).await;
            } else {
                handle.shutdown(std::mem::replace(&mut asked, true));
            }
        }
    });
    Ok(())
}

/// A folder for this user alone (0700): sockets and secrets lie in it. Another user's is refused, by root as well, who
/// could change its mode.
fn private_folder(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            use std::os::unix::fs::{MetadataExt, PermissionsExt};
            if fs::metadata(path)?.uid() != nix::unistd::getuid().as_raw() {
                return Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
            }
            fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        }
        made => made,
    }
}
