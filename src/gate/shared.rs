//! What the connections of one gate have in common.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};

use super::access_log::AccessLog;
use super::keys::KeyRing;
use super::lease::Leases;
use super::queue::Queue;
use super::traffic::Traffic;
use super::validate::Rules;
use super::{Availability, GateConfig, Report, Upstream};

/// A configuration and what follows from it.
#[derive(Debug)]
pub struct Settings {
    /// As it was given.
    pub config: GateConfig,
    /// `served` as JSON, quotes included.
    pub served_json: String,
    /// Who may ask.
    pub keys: KeyRing,
}

impl Settings {
    fn new(config: GateConfig) -> Self {
        let served_json = serde_json::Value::from(config.served.as_str()).to_string();
        let keys = KeyRing::new(config.keys.clone());
        Self { config, served_json, keys }
    }

    /// What a body is held against.
    pub fn rules(&self) -> Rules<'_> {
        let config = &self.config;
        Rules {
            accepted: &config.accepted,
            served: &config.served,
            max_tokens: config.limits.max_tokens,
            messages: config.limits.messages,
            context: config.context,
            default_tokens: config.default_tokens,
            vocabulary: config.vocabulary,
            remote_images: config.limits.remote_images,
        }
    }
}

/// One gate, as its connections see it.
#[derive(Debug)]
pub struct Shared {
    settings: RwLock<Arc<Settings>>,
    /// What the supervisor says of the model.
    pub availability: watch::Receiver<Availability>,
    reports: mpsc::UnboundedSender<(String, Report)>,
    /// The counters.
    pub traffic: Arc<Traffic>,
    /// The line before the backend.
    pub queue: Arc<Queue>,
    /// The requests at the backend.
    pub leases: Arc<Leases>,
    /// A line a request.
    pub log: Arc<AccessLog>,
    /// When the gate was made, seconds since the epoch: `created` of its models.
    pub created: u64,
    /// Memory of bodies.
    pub bodies: Arc<Bodies>,
    /// Of requests.
    pub ids: Ids,
}

/// Bytes of request bodies in memory at once, in bodies of the largest size.
const BODIES: u64 = 8;

impl Shared {
    pub(super) fn new(
        config: GateConfig,
        availability: watch::Receiver<Availability>,
        reports: mpsc::UnboundedSender<(String, Report)>,
    ) -> Self {
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            queue: Arc::new(Queue::new(config.limits.in_flight, config.limits.queue)),
            log: Arc::new(AccessLog::new(config.access_log.clone())),
            settings: RwLock::new(Arc::new(Settings::new(config))),
            availability,
            reports,
            traffic: Arc::default(),
            leases: Arc::default(),
            created: created.as_secs(),
            bodies: Arc::default(),
            ids: Ids::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        use crate::registry::{Limits, Network, Start};
        use crate::units::Bytes;
        let network = Network {
            host: std::net::Ipv4Addr::LOCALHOST.into(),
            allow_from: Vec::new(),
            allow_origins: Vec::new(),
            allow_hosts: Vec::new(),
            require_key: false,
        };
        let second = std::time::Duration::from_secs(1);
        let limits = Limits {
            in_flight: 1,
            queue: 1,
            queue_timeout: second,
            connections: 1,
            body: Bytes(1000),
            max_tokens: None,
            messages: 1,
            read_timeout: second,
            remote_images: false,
        };
        let config = GateConfig {
            name: "tiny".to_owned(),
            accepted: vec!["tiny".to_owned()],
            served: "tiny".to_owned(),
            start: Start::Always,
            port: 0,
            network,
            limits,
            context: None,
            default_tokens: 512,
            vocabulary: None,
            keys: "/dev/null".into(),
            access_log: "/dev/null".into(),
        };
        let (_, availability) = watch::channel(Availability::Offline);
        Self::new(config, availability, mpsc::unbounded_channel().0)
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Later requests follow `config`.
    pub fn replace(&self, config: GateConfig) {
        self.queue.resize(config.limits.in_flight, config.limits.queue);
        self.log.move_to(&config.access_log);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Settings::new(config));
    }

    /// Tells the supervisor.
    pub fn report(&self, report: Report) {
        let name = self.settings().config.name.clone();
        // Without a supervisor nobody needs to know.
        let _ = self.reports.send((name, report));
    }

    /// The model's run, if it is ready.
    pub fn ready(&self) -> Option<Upstream> {
        match &*self.availability.borrow() {
            Availability::Ready(upstream) => Some(upstream.clone()),
            _ => None,
        }
    }
}

/// Ids for requests, unique over the life of the machine as far as chance allows.
#[derive(Debug)]
pub struct Ids {
    /// With a number that is no secret: it tells one supervisor's requests from the next one's.
    prefix: String,
    next: AtomicU64,
}

impl Ids {
    pub fn new() -> Self {
        let seed = getrandom::u32().unwrap_or(std::process::id());
        Self { prefix: format!("req-{seed:08x}-"), next: AtomicU64::new(0) }
    }

    pub fn next(&self) -> String {
        let mut id = String::with_capacity(32);
        id.push_str(&self.prefix);
        id.push_str(itoa::Buffer::new().format(self.next.fetch_add(1, Relaxed)));
        id
    }
}

/// Memory that bodies of requests take.
#[derive(Debug, Default)]
pub struct Bodies(AtomicU64);

impl Bodies {
    /// The memory of one body, of which nothing has come yet.
    pub fn none(self: &Arc<Self>) -> Held {
        Held { bodies: self.clone(), bytes: 0 }
    }
}

/// Memory of one body, given back when dropped.
#[derive(Debug)]
pub struct Held {
    bodies: Arc<Bodies>,
    bytes: u64,
}

impl Held {
    /// Counts what has come of the body, `bytes` in all; `largest`: what one may have. Only what came counts: what a
    /// client says will come costs it nothing. `false`: all bodies together take too much.
    pub fn grow(&mut self, bytes: u64, largest: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        let before = self.bodies.0.fetch_add(more, Relaxed);
        before + more <= largest.saturating_mul(BODIES)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bodies.0.fetch_sub(self.bytes, Relaxed);
    }
}
