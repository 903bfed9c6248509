//! Everything that is counted, as Prometheus reads it (prometheus.io/docs/instrumenting/exposition_formats).
//!
//! Counters count since the supervisor's start: a restart sets them back to 0, which Prometheus expects.

mod listen;
mod text;

use std::collections::BTreeMap;

pub(crate) use listen::Listener;
pub(crate) use text::render;

use crate::api::Status;
use crate::gate::TrafficDetail;

/// The media type of Prometheus's text format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Provides everything that is counted. The supervisor implements it, in a layer above this one.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// Everything as of now; `None` if the supervisor is ending.
    fn snapshot(&self) -> impl Future<Output = Option<Snapshot>> + Send;
}

/// How often each kind of event was noted, by model; `None`: the supervisor's own events.
pub(crate) type Noted = BTreeMap<(Option<String>, String), u64>;

/// The state of the supervisor at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    /// The document that `mlxctl status --json` prints.
    pub status: Status,
    /// Counters of each gate, by model name.
    pub traffic: BTreeMap<String, TrafficDetail>,
    pub noted: Noted,
    /// Responses of the router itself, by HTTP status; `None`: there is no router.
    pub router: Option<BTreeMap<u16, u64>>,
}
