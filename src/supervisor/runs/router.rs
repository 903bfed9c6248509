//! The registry's `[router]`: one address in front of all gates, opened, moved and closed as the registry demands.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::gate::{Gate, LAST_WORDS, Listening, Router, RouterConfig};
use crate::registry::Registry;
use crate::supervisor::records::{Note, keys_file, log_file};

/// The router, if the registry has one, and its last report.
pub(super) struct Routing {
    router: Option<Router>,
    listening: Listening,
    reports: mpsc::UnboundedSender<Listening>,
}

impl Routing {
    /// Without a router yet; its `reports` are for [`Routing::heard`].
    pub(super) fn new(reports: mpsc::UnboundedSender<Listening>) -> Self {
        Self { router: None, listening: Listening::default(), reports }
    }

    /// Brings the router in line with the registry. `gates`: those of all models.
    pub(super) fn follow<'a>(
        &mut self,
        registry: &Registry,
        gates: impl Iterator<Item = &'a Gate>,
    ) -> Option<Note> {
        let wanted = registry.router.map(|port| RouterConfig {
            port,
            network: registry.network.clone(),
            keys: keys_file(registry),
            access_log: log_file(&registry.paths.logs, "router.access"),
        });
        match (wanted, &self.router) {
            (Some(config), Some(router)) => router.reconfigure(config, gates),
            (Some(config), None) => self.router = Some(Router::spawn(config, gates, self.reports.clone())),
            (None, _) => {
                let router = self.router.take()?;
                // Its requests may end first, as at a gate whose model is stopped.
                let drain = registry.models.iter().map(|model| model.stop.drain).max().unwrap_or_default();
                tokio::spawn(router.close(drain));
                self.listening = Listening::default();
                return Some(Note::new("router_closed", "the registry no longer has a router"));
            }
        }
        None
    }

    /// Handles a report of the router.
    pub(super) fn heard(&mut self, listening: Listening) -> Option<Note> {
        // A late report of a router that was closed.
        self.router.as_ref()?;
        let before = std::mem::replace(&mut self.listening, listening.clone());
        match listening.problem {
            Some(problem) if before.problem.as_ref() == Some(&problem) => None,
            Some(problem) => Some(Note::new("router_waits", format!("router: {problem}"))),
            None if before == listening => None,
            None => {
                let addresses: Vec<_> = listening.addresses.iter().map(ToString::to_string).collect();
                let text = format!("the router listens on {}", addresses.join(", "));
                Some(Note::new("router_listens", text))
            }
        }
    }

    /// Why it does not listen; `None`: it does, or there is none.
    pub(super) fn problem(&self) -> Option<&str> {
        self.listening.problem.as_deref()
    }

    /// Number of its own answers, by HTTP status; `None`: there is no router.
    pub(super) fn codes(&self) -> Option<BTreeMap<u16, u64>> {
        self.router.as_ref().map(Router::codes)
    }

    /// Closes the router; waiting clients get a final answer. `None`: there is none.
    pub(super) fn close(&mut self) -> Option<impl Future<Output = ()> + use<>> {
        self.router.take().map(|router| router.close(LAST_WORDS))
    }
}
