//! What the connections of one gate have in common.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
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
    /// Who may ask.
    pub keys: KeyRing,
}

impl Settings {
    fn new(config: GateConfig) -> Self {
        let keys = KeyRing::new(config.keys.clone());
        Self { config, keys }
    }

    /// What a body is held against.
    pub fn rules(&self) -> Rules<'_> {
        let config = &self.config;
        Rules {
            accepted: &config.accepted,
            max_tokens: config.limits.max_tokens,
            messages: config.limits.messages,
            context: config.context,
            counted: config.counted,
            default_tokens: config.default_tokens,
            vocabulary: config.vocabulary,
            remote_images: config.limits.remote_images,
            presets: &config.presets,
            variables: &config.variables,
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

/// Bytes of large request bodies in memory at once, in bodies of the largest size; one address may have half of them.
const BODIES: u64 = 8;
/// Bytes of every body that are not counted: with as many connections as there may be they come to little, and a small
/// request never waits for large ones.
pub const SMALL: u64 = 64 * 1024;

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
            presets: Vec::new(),
            start: Start::Always,
            port: 0,
            network,
            limits,
            context: None,
            counted: false,
            default_tokens: 512,
            vocabulary: None,
            variables: std::collections::BTreeSet::new(),
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

/// Memory that bodies of requests take, beyond [`SMALL`] bytes of each.
#[derive(Debug, Default)]
pub struct Bodies(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    by_address: HashMap<IpAddr, u64>,
}

impl Bodies {
    /// The memory of one body, of which nothing has come yet.
    pub fn of(self: &Arc<Self>, client: IpAddr) -> Held {
        Held { bodies: self.clone(), client, bytes: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of one body, given back when dropped.
#[derive(Debug)]
pub struct Held {
    bodies: Arc<Bodies>,
    client: IpAddr,
    /// Those that count.
    bytes: u64,
}

impl Held {
    /// Counts what has come of the body, `bytes` in all; `largest`: what one may have. Only what came counts: what a
    /// client says will come costs it nothing. `false`: all bodies together, or those of this address, take too much.
    pub fn grow(&mut self, bytes: u64, largest: u64) -> bool {
        let more = bytes.saturating_sub(SMALL).saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let most = largest.saturating_mul(BODIES);
        let mut taken = self.bodies.taken();
        let own = taken.by_address.get(&self.client).copied().unwrap_or(0);
        if taken.all + more > most || own + more > most / 2 {
            return false;
        }
        taken.all += more;
        taken.by_address.insert(self.client, own + more);
        self.bytes += more;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut taken = self.bodies.taken();
        taken.all -= self.bytes;
        if let Some(own) = taken.by_address.get_mut(&self.client) {
            *own -= self.bytes;
            if *own == 0 {
                taken.by_address.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: u64 = 1 << 20;
    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const C: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));

    /// So many bodies of the largest size, as far as there is room.
    fn fill(bodies: &Arc<Bodies>, client: IpAddr) -> Vec<Held> {
        let one = || {
            let mut held = bodies.of(client);
            held.grow(LARGEST, LARGEST).then_some(held)
        };
        std::iter::from_fn(one).collect()
    }

    #[test]
    fn large_bodies_of_one_address_leave_room_for_those_of_others() {
        let bodies = Arc::<Bodies>::default();
        let of_a = fill(&bodies, A);
        assert_eq!(of_a.len(), 4);
        let of_b = fill(&bodies, B);
        assert_eq!((of_b.len(), fill(&bodies, C).len()), (4, 0), "and all together have a bound");
        drop(of_a);
        assert_eq!(fill(&bodies, C).len(), 4);
        drop(of_b);
        let taken = bodies.taken();
        assert_eq!((taken.all, taken.by_address.len()), (0, 0));
    }

    #[test]
    fn there_is_always_room_for_a_small_body() {
        let bodies = Arc::<Bodies>::default();
        let _large = [fill(&bodies, A), fill(&bodies, B)];
        let mut small = bodies.of(A);
        assert!(small.grow(30, LARGEST) && small.grow(SMALL, LARGEST));
        assert!(!small.grow(LARGEST, LARGEST));
    }
}
