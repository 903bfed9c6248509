//! State shared by all connections of one gate.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};

use super::access_log::AccessLog;
use super::bodies::Bodies;
use super::lease::Leases;
use super::queue::Queue;
use super::traffic::Traffic;
use crate::gate::policy::contract::{Availability, GateConfig, Report, Upstream};
use crate::gate::policy::keys::KeyRing;

/// A configuration and what is derived from it.
#[derive(Debug)]
pub(crate) struct Settings {
    pub config: GateConfig,
    pub keys: KeyRing,
}

impl Settings {
    fn new(config: GateConfig) -> Self {
        let keys = KeyRing::new(config.keys.clone());
        Self { config, keys }
    }
}

/// What every listener keeps for its requests, whether a gate's or a router's.
#[derive(Debug)]
pub(crate) struct Front {
    pub traffic: Arc<Traffic>,
    pub log: Arc<AccessLog>,
    /// Memory that bodies of requests take.
    pub bodies: Arc<Bodies>,
    pub ids: Ids,
}

impl Front {
    pub(super) fn new(log: PathBuf) -> Self {
        let log = Arc::new(AccessLog::new(log));
        Self { traffic: Arc::default(), log, bodies: Arc::default(), ids: Ids::new() }
    }
}

/// One gate, as its connections see it.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: RwLock<Arc<Settings>>,
    /// The state of the model, as the supervisor publishes it.
    pub availability: watch::Receiver<Availability>,
    reports: mpsc::UnboundedSender<(String, Report)>,
    pub front: Front,
    pub queue: Arc<Queue>,
    pub leases: Arc<Leases>,
    /// When the gate was made, in seconds since the epoch: `created` of its models.
    pub created: u64,
}

impl Shared {
    pub(super) fn new(
        config: GateConfig,
        availability: watch::Receiver<Availability>,
        reports: mpsc::UnboundedSender<(String, Report)>,
    ) -> Self {
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            queue: Arc::new(Queue::new(config.limits.in_flight, config.limits.queue)),
            front: Front::new(config.access_log.clone()),
            settings: RwLock::new(Arc::new(Settings::new(config))),
            availability,
            reports,
            leases: Arc::default(),
            created: created.as_secs(),
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let (_, availability) = watch::channel(Availability::Offline);
        Self::new(GateConfig::for_tests(), availability, mpsc::unbounded_channel().0)
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Applies `config` to requests that begin later.
    pub(crate) fn replace(&self, config: GateConfig) {
        self.queue.resize(config.limits.in_flight, config.limits.queue);
        self.front.log.move_to(&config.access_log);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Settings::new(config));
    }

    pub(crate) fn report(&self, report: Report) {
        let name = self.settings().config.name.clone();
        // There is no receiver without a supervisor.
        let _ = self.reports.send((name, report));
    }

    /// The model's run, if it is ready.
    pub(crate) fn ready(&self) -> Option<Upstream> {
        match &*self.availability.borrow() {
            Availability::Ready(upstream) => Some(upstream.clone()),
            _ => None,
        }
    }
}

/// Ids of requests, which a random prefix keeps unique across restarts.
#[derive(Debug)]
pub(crate) struct Ids {
    /// Contains a random number, which need not be secret: it tells the requests of successive supervisors apart.
    prefix: String,
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        let seed = getrandom::u32().unwrap_or(std::process::id());
        Self { prefix: format!("req-{seed:08x}-"), next: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> String {
        let mut id = String::with_capacity(32);
        id.push_str(&self.prefix);
        id.push_str(itoa::Buffer::new().format(self.next.fetch_add(1, Relaxed)));
        id
    }
}
