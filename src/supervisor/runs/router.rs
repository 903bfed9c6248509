//! The registry's `[router]`: one address before all gates, opened, moved and closed as the registry says.

use tokio::sync::mpsc;

use crate::gate::{Gate, Listening, Router, RouterConfig};
use crate::lifecycle::Name;
use crate::supervisor::driver::Driver;
use crate::supervisor::runs::slot::{keys_file, log_file};

/// The router, whether or not there is one.
pub(in crate::supervisor) struct Routing {
    /// `None`: the registry wants none.
    pub router: Option<Router>,
    /// As it was last reported.
    pub listening: Listening,
    reports: mpsc::UnboundedSender<Listening>,
}

impl Routing {
    /// None yet; `reports` are heard by [`Driver::heard_router`].
    pub fn new(reports: mpsc::UnboundedSender<Listening>) -> Self {
        Self { router: None, listening: Listening::default(), reports }
    }
}

impl Driver {
    /// Makes the router what the registry in force says; the gates are there.
    pub fn follow_router(&mut self) {
        let registry = self.registry.clone();
        let gates = || registry.models.iter().filter_map(|model| self.gate(&model.name));
        let wanted = registry.router.map(|port| RouterConfig {
            port,
            network: registry.network.clone(),
            keys: keys_file(&registry),
            access_log: log_file(&registry.paths.logs, "router.access"),
        });
        match (wanted, &self.routing.router) {
            (Some(config), Some(router)) => router.reconfigure(config, gates()),
            (Some(config), None) => {
                let router = Router::spawn(config, gates(), self.routing.reports.clone());
                self.routing.router = Some(router);
            }
            (None, _) => {
                if let Some(router) = self.routing.router.take() {
                    // What came in through it may end, as at a gate whose model is stopped.
                    let drain =
                        registry.models.iter().map(|model| model.stop.drain).max().unwrap_or_default();
                    tokio::spawn(router.close(drain));
                    self.routing.listening = Listening::default();
                    self.note(None, "router_closed", "the registry names no router any more");
                }
            }
        }
    }

    fn gate(&self, model: &str) -> Option<&Gate> {
        self.slots.get(&Name::from(model)).map(|slot| &slot.gate)
    }

    /// What the router reports.
    pub fn heard_router(&mut self, listening: Listening) {
        // The last word of one that was closed meanwhile.
        if self.routing.router.is_none() {
            return;
        }
        let before = std::mem::replace(&mut self.routing.listening, listening.clone());
        match listening.problem {
            Some(problem) if before.problem.as_ref() == Some(&problem) => {}
            Some(problem) => self.note(None, "router_waits", &format!("router: {problem}")),
            None if before == listening => {}
            None => {
                let addresses: Vec<_> = listening.addresses.iter().map(ToString::to_string).collect();
                self.note(None, "router_listens", &format!("the router listens on {}", addresses.join(", ")));
            }
        }
    }
}
