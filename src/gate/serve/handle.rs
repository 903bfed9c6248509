//! The supervisor's handle of a gate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::access_log::AccessLog;
use super::door::Door;
use super::listen::{self, Wanted};
use super::shared::Shared;
use super::traffic::Traffic;
use crate::gate::policy::contract::{Availability, GateConfig, Report};

/// How long aborted answers may take to write their error before their connections close.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);

/// The gate of one model. Dropping it cuts its connections; [`Gate::close`] closes it properly.
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
    listener: Listener,
}

impl Gate {
    /// Opens a gate on the current tokio runtime. It never fails: problems with listening are reported and retried.
    pub fn spawn(
        config: GateConfig,
        availability: watch::Receiver<Availability>,
        reports: mpsc::UnboundedSender<(String, Report)>,
    ) -> Self {
        let address = address(&config);
        let shared = Arc::new(Shared::new(config, availability, reports));
        let listener = Listener::open(shared.clone(), shared.front.log.clone(), address);
        Self { shared, listener }
    }

    /// Applies a new configuration. Requests in progress keep the old one; the listeners stay open if their address
    /// stays the same.
    pub fn reconfigure(&self, config: GateConfig) {
        let next = address(&config);
        self.shared.replace(config);
        self.listener.listen_at(next);
    }

    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.shared.front.traffic
    }

    /// Ends every request at the run of this generation: with 503, or with an error event if its answer has begun.
    pub fn abort(&self, generation: u64, why: &str) {
        self.shared.leases.abort(generation, why);
    }

    /// Stops accepting, waits up to [`LAST_WORDS`] for answers to end, and closes every connection.
    pub async fn close(self) {
        let Self { shared, listener } = self;
        listener.close(LAST_WORDS, shared.front.traffic.drained()).await;
        shared.front.log.finish().await;
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// The tasks that listen for a door and write its log. Dropping it ends both at once.
#[derive(Debug)]
pub(super) struct Listener {
    wanted: watch::Sender<Wanted>,
    until: watch::Sender<bool>,
    listening: JoinHandle<()>,
    log: JoinHandle<()>,
}

impl Listener {
    /// Listens at `address` for `door`, and writes `log`.
    pub(super) fn open(door: Arc<dyn Door>, log: Arc<AccessLog>, address: SocketAddr) -> Self {
        let (wanted, listen_to) = watch::channel(Wanted::At(address));
        let (until, end) = watch::channel(false);
        let listening = tokio::spawn(listen::run(door, listen_to, end));
        let log = tokio::spawn(log.run());
        Self { wanted, until, listening, log }
    }

    /// Moves to another address, unless it is the same.
    pub(super) fn listen_at(&self, address: SocketAddr) {
        let next = Wanted::At(address);
        self.wanted.send_if_modified(|now| std::mem::replace(now, next) != next);
    }

    /// Stops accepting, waits for `drained` but not longer than `patience`, and closes every connection.
    pub(super) async fn close(mut self, patience: Duration, drained: impl Future) {
        self.wanted.send_replace(Wanted::Nothing);
        // Only requests in flight are waited for: idle connections would delay this for nothing.
        let _ = tokio::time::timeout(patience, drained).await;
        tokio::task::yield_now().await;
        self.until.send_replace(true);
        let _ = (&mut self.listening).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listening.abort();
        self.log.abort();
    }
}

fn address(config: &GateConfig) -> SocketAddr {
    SocketAddr::new(config.network.host, config.port)
}
