//! Every key of the registry: its name, type, range, default and meaning, once each.
//!
//! Reading, the defaults, "did you mean", the tables of `docs/registry.md` and the comments of `mlxctl init` all come
//! from here. A test compares the page with what is generated; `BLESS=1 cargo test --lib registry` rewrites it.

mod cluster;
mod machine;
mod model;
pub(crate) mod table;
mod written;

pub(super) use cluster::{RawCluster, RawHost};
pub(crate) use machine::{Notify, Power, PressureSettings};
pub(super) use machine::{
    RawAgent, RawMetrics, RawNetwork, RawNotify, RawPage, RawPaths, RawPower, RawPressure, RawPython,
    RawReserves, RawRouter,
};
pub use model::Limits;
pub(crate) use model::{Health, ModelMemory, Restart, Sampling, ServerOptions, Stop};
pub(super) use model::{
    RawEntry, RawHealth, RawLimits, RawMemory, RawPreset, RawRestart, RawServer, RawStop,
};
pub(crate) use table::Key;
use table::{Keys, Table};

use super::notes::At;

type Maybe<T> = Option<At<T>>;

/// Every table of keys, in the order of `docs/registry.md`.
pub(crate) const TABLES: &[&Keys] = &[
    &RawPaths::KEYS,
    &RawPython::KEYS,
    &RawNetwork::KEYS,
    &RawReserves::KEYS,
    &RawPressure::KEYS,
    &RawPower::KEYS,
    &RawAgent::KEYS,
    &RawNotify::KEYS,
    &RawMetrics::KEYS,
    &RawPage::KEYS,
    &RawRouter::KEYS,
    &RawEntry::KEYS,
    &RawServer::KEYS,
    &RawMemory::KEYS,
    &RawHealth::KEYS,
    &RawRestart::KEYS,
    &RawStop::KEYS,
    &RawLimits::KEYS,
    &RawCluster::KEYS,
];
