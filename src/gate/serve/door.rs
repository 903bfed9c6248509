//! What a connection asks of the listener that it came through: who may come in, within which bounds, and which
//! gate a request goes to. A gate of its own is one such door, [`super::router`] another.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::shared::{Front, Shared};
use crate::gate::policy::access::{self, Caller};
use crate::gate::policy::answer;
use crate::gate::policy::bounds::Bounds;
use crate::gate::policy::contract::GateConfig;
use crate::gate::policy::contract::Report;
use crate::gate::policy::decide::{Asked, Verdict, decide};
use crate::gate::wire::Refusal;
use crate::host;

/// What becomes of a request, by its head.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    pub verdict: Verdict,
    /// The origin that may read the answer.
    pub origin: Option<&'a str>,
    pub caller: Caller,
}

/// What is behind a listener.
pub(crate) trait Door: Send + Sync {
    /// In force now.
    fn bounds(&self) -> Bounds;

    /// Whether a client at this address may connect.
    fn admits(&self, client: IpAddr) -> bool;

    /// Decides by the head alone.
    fn judge<'a>(&self, asked: &Asked<'a>) -> Judged<'a>;

    /// The gate that a request with this body goes to.
    ///
    /// # Errors
    /// There is none.
    fn gate(self: Arc<Self>, body: &[u8]) -> Result<Arc<Shared>, Box<Refusal>>;

    /// Of what never came to a gate.
    fn front(&self) -> &Front;

    /// Tells the supervisor where it listens, and what it waits for.
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
