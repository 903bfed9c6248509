//! The handle that the supervisor holds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::listen::{self, Wanted};
use super::shared::Shared;
use super::traffic::Traffic;
use super::{Availability, GateConfig, Report};

/// How long answers that were ended may take to say so before their connections end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The gate of one model. Dropping it ends it at once; [`Gate::close`] does so properly.
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
    wanted: watch::Sender<Wanted>,
    until: watch::Sender<bool>,
    listening: JoinHandle<()>,
    log: JoinHandle<()>,
}

impl Gate {
    /// Opens a gate on the current tokio runtime. It never fails: what keeps it from listening is reported and
    /// tried again.
    #[must_use]
    pub fn spawn(
        config: GateConfig,
        availability: watch::Receiver<Availability>,
        reports: mpsc::UnboundedSender<(String, Report)>,
    ) -> Self {
        let (wanted, listen_to) = watch::channel(Wanted::At(address(&config)));
        let (until, end) = watch::channel(false);
        let shared = Arc::new(Shared::new(config, availability, reports));
        let listening = tokio::spawn(listen::run(shared.clone(), listen_to, end));
        let log = tokio::spawn(shared.log.clone().run());
        Self { shared, wanted, until, listening, log }
    }

    /// Takes a new configuration in. Requests that are under way keep the old one; the listeners stay open if
    /// their address stays the same.
    pub fn reconfigure(&self, config: GateConfig) {
        let next = Wanted::At(address(&config));
        self.shared.replace(config);
        self.wanted.send_if_modified(|now| std::mem::replace(now, next) != next);
    }

    /// The counters.
    #[must_use]
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.shared.traffic
    }

    /// Ends every request that is at the run of this generation: 503, or the error event where an answer has begun.
    pub fn abort(&self, generation: u64, why: &str) {
        self.shared.leases.abort(generation, why);
    }

    /// Stops accepting, gives ended answers half a second to say so, and closes every connection.
    pub async fn close(mut self) {
        self.wanted.send_replace(Wanted::Nothing);
        // Idle connections would hold it up for nothing: only what is in flight is waited for.
        let _ = tokio::time::timeout(LAST_WORDS, self.shared.traffic.drained()).await;
        tokio::task::yield_now().await;
        self.until.send_replace(true);
        let _ = (&mut self.listening).await;
        self.shared.log.flush();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.listening.abort();
        self.log.abort();
    }
}

fn address(config: &GateConfig) -> SocketAddr {
    SocketAddr::new(config.network.host, config.port)
}
