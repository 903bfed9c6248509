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

/// The format's name.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Who knows everything that is counted. The supervisor does; it lies above this folder.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// Everything, now; `None` when it is ending.
    fn snapshot(&self) -> impl Future<Output = Option<Snapshot>> + Send;
}

/// How often each kind of event was noted, by model; without one: the supervisor's own.
pub(crate) type Noted = BTreeMap<(Option<String>, String), u64>;

/// The supervisor at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    /// As `status` shows it.
    pub status: Status,
    /// By model.
    pub traffic: BTreeMap<String, TrafficDetail>,
    /// See [`Noted`].
    pub noted: Noted,
    /// Answers of the router's own, by HTTP status; `None`: there is no router.
    pub router: Option<BTreeMap<u16, u64>>,
}
