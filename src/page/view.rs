//! What the page gets to know about the supervisor: a subset of `mlxctl status --json`, with the same names. Pure.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::api::{BudgetStatus, ModelStatus, StateName};
use crate::metrics::Snapshot;
use crate::registry::Start;

/// Everything that changes from second to second.
#[derive(Debug, Serialize)]
pub(super) struct View<'s> {
    /// Milliseconds since the epoch; the browser's clock may differ.
    now: u128,
    version: &'s str,
    uptime_seconds: f64,
    host: Host<'s>,
    budget: &'s BudgetStatus,
    waiting_for: &'s [String],
    yielding_to: &'s [String],
    models: Vec<Model<'s>>,
}

#[derive(Debug, Serialize)]
struct Host<'s> {
    os: &'s str,
    chip: Option<&'s str>,
    available_bytes: Option<u64>,
    swap_used_bytes: Option<u64>,
    gpu_limit_bytes: Option<u64>,
    pressure: crate::host::Pressure,
}

#[derive(Debug, Serialize)]
struct Model<'s> {
    name: &'s str,
    repo: &'s str,
    start: Start,
    state: StateName,
    /// Whether memory is granted to it now.
    holds_memory: bool,
    reason: Option<&'s str>,
    hint: Option<&'s str>,
    held_back: Option<&'s str>,
    progress: Option<f64>,
    uptime_seconds: Option<f64>,
    next_start_seconds: Option<f64>,
    stops_in_seconds: Option<f64>,
    restarts: u32,
    estimate_bytes: Option<u64>,
    footprint_bytes: Option<u64>,
    in_flight: u64,
    queued: u64,
    requests: u64,
    errors: u64,
    tokens: u64,
    tokens_per_second: Option<f64>,
    ttft_ms: Option<f64>,
}

impl<'s> View<'s> {
    pub(super) fn of(snapshot: &'s Snapshot, now: SystemTime) -> Self {
        let (status, own) = (&snapshot.status, snapshot.status.supervisor.as_ref());
        let queued =
            |model: &ModelStatus| snapshot.traffic.get(&model.name).map_or(0, |detail| detail.queued);
        Self {
            now: now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis(),
            version: own.map_or("", |own| &own.version),
            uptime_seconds: own.map_or(0.0, |own| own.uptime_seconds),
            host: Host {
                os: &status.host.os,
                chip: status.host.chip.as_deref(),
                available_bytes: status.host.available_bytes,
                swap_used_bytes: status.host.swap_used_bytes,
                gpu_limit_bytes: status.host.gpu_limit_bytes,
                pressure: status.host.pressure,
            },
            budget: &status.budget,
            waiting_for: own.map_or(&[], |own| &own.waiting_for),
            yielding_to: own.map_or(&[], |own| &own.yielding_to),
            models: status.models.iter().map(|model| Model::of(model, queued(model))).collect(),
        }
    }
}

impl<'s> Model<'s> {
    fn of(model: &'s ModelStatus, queued: u64) -> Self {
        Self {
            name: &model.name,
            repo: &model.repo,
            start: model.start,
            state: model.state,
            holds_memory: model.state.holds_memory(),
            reason: model.reason.as_deref(),
            hint: model.hint.as_deref(),
            held_back: model.held_back.as_ref().map(|held| held.reason.as_str()),
            progress: model.progress,
            uptime_seconds: model.uptime_seconds,
            next_start_seconds: model.next_start_seconds,
            stops_in_seconds: model.stops_in_seconds,
            restarts: model.restarts,
            estimate_bytes: model.memory.estimate_bytes,
            footprint_bytes: model.memory.footprint_bytes,
            in_flight: model.traffic.in_flight,
            queued,
            requests: model.traffic.counts.requests,
            errors: model.traffic.counts.errors,
            tokens: model.traffic.counts.tokens,
            tokens_per_second: model.traffic.tokens_per_second,
            ttft_ms: model.traffic.ttft_ms,
        }
    }
}
