//! What a connection needs from the listener that accepted it: who may connect, within which bounds, and which gate a
//! request goes to. A gate's own listener is one kind of door, [`super::router`] the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::access_log::Line;
use super::shared::{Front, Shared};
use crate::gate::policy::access::{self, Caller};
use crate::gate::policy::answer;
use crate::gate::policy::bounds::Bounds;
use crate::gate::policy::contract::{GateConfig, Report};
use crate::gate::policy::decide::{Asked, Verdict, decide};
use crate::gate::wire::{Envelope, Refusal};
use crate::host;

/// The decision about a request, from its head.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    pub verdict: Verdict,
    /// The origin that may read the answer.
    pub origin: Option<&'a str>,
    pub caller: Caller,
}

/// What serves the connections of a listener.
pub(crate) trait Door: Send + Sync {
    /// The bounds for connections and requests that begin now.
    fn bounds(&self) -> Bounds;

    /// Whether a client at this address may connect.
    fn admits(&self, client: IpAddr) -> bool;

    /// Decides about a request from its head alone.
    fn judge<'a>(&self, asked: &Asked<'a>) -> Judged<'a>;

    /// The gate that a request with this body goes to.
    ///
    /// # Errors
    /// If the body names no model, or one that is not served here.
    fn gate(self: Arc<Self>, body: &[u8]) -> Result<Arc<Shared>, Box<Refusal>>;

    /// Ids and body memory of all requests; counters and log of those that reach no gate.
    fn front(&self) -> &Front;

    /// Tells the supervisor where it listens, and what keeps it from listening.
    fn listens(&self, addresses: Vec<SocketAddr>, problem: Option<String>);
}

impl Door for Shared {
    fn bounds(&self) -> Bounds {
        Bounds::of(&self.settings().config)
    }

    fn admits(&self, client: IpAddr) -> bool {
        GateConfig::admits(&self.settings().config.network.allow_from, client)
    }

    fn judge<'a>(&self, asked: &Asked<'a>) -> Judged<'a> {
        let settings = self.settings();
        let config = &settings.config;
        let caller = access::caller(asked.authorization, &config.network, &settings.keys);
        let (verdict, origin) = decide(asked, &caller, &config.network, |route| {
            answer::inform(route, config, &self.availability.borrow(), self.created, host::now())
        });
        Judged { verdict, origin, caller }
    }

    fn gate(self: Arc<Self>, _: &[u8]) -> Result<Arc<Shared>, Box<Refusal>> {
        Ok(self)
    }

    fn front(&self) -> &Front {
        &self.front
    }

    fn listens(&self, addresses: Vec<SocketAddr>, problem: Option<String>) {
        self.report(Report::Listening { addresses, problem });
    }
}

/// Logs a refusal of what could not be read as a request; returns the answer, after which the connection closes.
pub(super) fn refuse_unread(door: &dyn Door, client: IpAddr, refusal: &Refusal) -> Vec<u8> {
    let id = door.front().ids.next();
    door.front().log.write(&Line {
        client: Some(client),
        id: &id,
        method: "-",
        path: "-",
        status: refusal.status,
        outcome: refusal.code,
        ..Line::default()
    });
    refusal.reply().render(&Envelope { id: &id, origin: None, close: true, head_only: false, waits: None })
}
