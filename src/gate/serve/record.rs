//! Reports a finished request to the counters and the access log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::access_log::Line;
use super::door::Door;
use super::shared::{Front, Shared};
use crate::gate::policy::access::Caller;
use crate::gate::wire::{Method, Usage};

#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) status: u16,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) usage: Usage,
    pub(super) waited: Duration,
    pub(super) first_token: Option<Duration>,
    pub(super) attempts: u32,
    pub(super) outcome: &'static str,
    /// The gate that it went to, if any.
    pub(super) gate: Option<Arc<Shared>>,
}

/// What was known of the request from its head.
pub(super) struct About<'a> {
    pub(super) client: IpAddr,
    pub(super) caller: &'a Caller,
    pub(super) id: &'a str,
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) started: Instant,
}

impl Record {
    /// Counts the request and writes its line.
    pub(super) fn close(&self, door: &dyn Door, about: &About<'_>) {
        let Front { traffic, log, .. } = self.gate.as_ref().map_or(door.front(), |gate| &gate.front);
        traffic.ended(self.status, self.outcome == "client_gone");
        if let (Caller::Named(name), Some(_)) = (about.caller, &self.gate) {
            traffic.counted(name, self.usage);
        }
        log.write(&Line {
            client: Some(about.client),
            key: if let Caller::Named(name) = about.caller { Some(name) } else { None },
            id: about.id,
            method: about.method.name(),
            path: about.path,
            status: self.status,
            received: self.received,
            sent: self.sent,
            usage: self.usage,
            waited: self.waited,
            first_token: self.first_token,
            total: about.started.elapsed(),
            attempts: self.attempts,
            outcome: self.outcome,
        });
    }
}
