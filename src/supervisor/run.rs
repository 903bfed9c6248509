//! The loop: setup, adoption, serving, end.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answers::Answers;
use super::capacity::Capacity;
use super::driver::{Driver, Parts};
use super::handle::Handle;
use super::inbox::Input;
use super::records::{Lock, LockError, Note, Records};
use super::runs::{self, Found, Reports, Runs};
use crate::backend::launcher;
use crate::gate::{Listening, Report};
use crate::host::Host;
use crate::lifecycle::{Fleet, Name};
use crate::registry::Registry;

/// The longest sleep of the loop. Its timer stops while a Mac sleeps (`CLOCK_UPTIME_RAW`), but deadlines do not, so after
/// a sleep of the machine a deadline is at most this late.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// How long the loop still answers after its end, so that waiters get and read their outcomes.
const LAST_ANSWERS: Duration = Duration::from_millis(50);

pub struct Options {
    pub registry: Registry,
    pub host: Arc<dyn Host>,
    pub binary: PathBuf,
}

/// Why a supervisor could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Lock(LockError),
    /// A folder or file that it needs could not be created.
    #[error("{what}")]
    Io { what: &'static str, source: std::io::Error },
}

/// A supervisor that holds the lock and has opened its gates.
pub struct Supervisor {
    driver: Driver,
    inbox: mpsc::UnboundedReceiver<Input>,
    handle: Handle,
    reports: mpsc::UnboundedReceiver<(String, Report)>,
    router_reports: mpsc::UnboundedReceiver<Listening>,
    found: Found,
}

impl Supervisor {
    /// Creates folders, takes the lock, reads what earlier supervisors left, and opens the gates. Starts no model yet.
    pub fn new(options: Options) -> Result<Self, StartError> {
        let Options { registry, host, binary } = options;
        let io = |what| move |source| StartError::Io { what, source };
        let paths = &registry.paths;
        for folder in [&paths.root, &paths.logs, &paths.state] {
            fs::create_dir_all(folder).map_err(io("cannot create a folder of the registry's [paths]"))?;
        }
        private_folder(&paths.run).map_err(io("cannot create the run folder"))?;
        let lock = Lock::take(&paths.run).map_err(StartError::Lock)?;
        launcher::write(&paths.run).map_err(io("cannot write the launcher"))?;
        crate::durable::sweep(&paths.state);
        let found = runs::find(&paths.run, &*host);
        let (inbox, received) = mpsc::unbounded_channel();
        let (gates, reports) = mpsc::unbounded_channel();
        let (router, router_reports) = mpsc::unbounded_channel();
        let handle = Handle::new(inbox.clone());
        let mut records = Records::open(&paths.state, &host.facts().boot_id, lock);
        let (capacity, problem) = Capacity::open(&host, &registry, &binary, into(&inbox, Input::Capacity));
        if let Some(problem) = problem {
            records.note(Note::new("state_problem", problem));
        }
        let past = records.after(None, usize::MAX);
        let notified = into(&inbox, Input::Notified);
        let answers = Answers::new(host.now(), &registry, handle.clone(), &past, notified);
        let reports_to = Reports { gates, router, news: into(&inbox, Input::Runs) };
        let runs = Runs::new(&host, &binary, capacity.follow_pace(), reports_to);
        let fleet = fleet(&*host, &registry, &found);
        let parts = Parts { host, registry, fleet, runs, capacity, answers, records, inbox };
        let driver = Driver::new(parts);
        Ok(Self { driver, inbox: received, handle, reports, router_reports, found })
    }

    /// A handle for sending questions and commands to the loop.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until a shutdown has ended every backend, or a hand-over is complete.
    pub async fn run(self) {
        let Self { mut driver, mut inbox, mut reports, mut router_reports, found, handle: _ } = self;
        driver.boot(found);
        while !driver.is_over() {
            let wait = driver.idle_for(LONGEST_SLEEP);
            tokio::select! {
                Some(input) = inbox.recv() => driver.take(input),
                Some((model, report)) = reports.recv() => driver.heard(&model, report),
                Some(listening) = router_reports.recv() => driver.heard_router(listening),
                () = tokio::time::sleep_until(Instant::now() + wait) => driver.tick(),
            }
            driver.end_turn();
        }
        let end = Instant::now() + LAST_ANSWERS;
        while let Ok(Some(input)) = tokio::time::timeout_at(end, inbox.recv()).await {
            driver.take(input);
        }
        driver.close().await;
    }
}

/// The fleet with every model stopped, at its last generation.
fn fleet(host: &dyn Host, registry: &Registry, found: &Found) -> Fleet {
    let models = registry.models.iter().map(|model| {
        let name = Name::from(model.name.as_str());
        (name, runs::policy(host, model), found.last_generation(&model.name))
    });
    let seed = u64::from(std::process::id()) ^ u64::try_from(host.now().0.as_nanos()).unwrap_or_default();
    Fleet::new(models, seed)
}

/// A callback that sends one part's news to the loop.
fn into<T: 'static>(
    inbox: &mpsc::UnboundedSender<Input>,
    input: fn(T) -> Input,
) -> Arc<dyn Fn(T) + Send + Sync> {
    let inbox = inbox.clone();
    // Once the loop has ended, news does not matter.
    Arc::new(move |news| drop(inbox.send(input(news))))
}

/// Creates a folder for this user only (0700), for sockets and secrets. A folder of another user is refused, even for
/// root, who could change its mode.
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
