//! The ledger, and the judgement on a start: bytes are reserved when a start is granted, not when they are seen.

use std::collections::BTreeMap;

use serde::Serialize;

use super::budget::balance;
use super::estimate::Estimate;
use super::gpu::GpuLimit;
use super::platform::Platform;
use super::refusal::AVAILABLE;
use super::refusal::{Check, Line, Refusal, Why};
use super::remedy;
use crate::host::{Footprint, MemoryReading};
use crate::registry::Reserve;
use crate::units::Bytes;

/// Bytes that a live run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Grant {
    pub bytes: Bytes,
    /// Whether `--force` went past a refusal; stays visible for as long as the run lives.
    pub forced: bool,
}

/// Who may take what. Owned by the supervisor's loop; nothing else changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Whose memory, as ssh calls it; `None`: this machine's.
    pub host: Option<String>,
    pub total: Bytes,
    pub reserves: Vec<Reserve>,
    granted: BTreeMap<String, Grant>,
}

/// The machine as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Live<'a> {
    pub reading: &'a MemoryReading,
    /// What the OS charges the running models.
    pub footprints: &'a BTreeMap<String, Footprint>,
    /// Programs of the reserves' `while_running` that run.
    pub programs: &'a [String],
    pub platform: Platform,
    /// What the GPU may hold there, if it is known.
    pub gpu_limit: Option<GpuLimit>,
}

impl Ledger {
    /// A ledger without grants.
    #[must_use]
    pub fn new(total: Bytes, reserves: Vec<Reserve>) -> Self {
        Self { host: None, total, reserves, granted: BTreeMap::new() }
    }

    /// That of another machine.
    #[must_use]
    pub fn of_host(self, host: &str) -> Self {
        Self { host: Some(host.to_owned()), ..self }
    }

    /// All grants by model name.
    #[must_use]
    pub fn granted(&self) -> &BTreeMap<String, Grant> {
        &self.granted
    }

    /// The sum of all grants.
    #[must_use]
    pub fn sum(&self) -> Bytes {
        self.granted.values().map(|grant| grant.bytes).sum()
    }

    /// Whether any grant was forced, so that the sum may be over the budget.
    #[must_use]
    pub fn forced(&self) -> bool {
        self.granted.values().any(|grant| grant.forced)
    }

    /// Reserves bytes for a start that [`judge`] allowed, or that was forced; `false`: the model has a grant already.
    #[must_use = "a second grant of the same model is not entered"]
    pub fn enter(&mut self, model: &str, grant: Grant) -> bool {
        if self.granted.contains_key(model) {
            return false;
        }
        self.granted.insert(model.to_owned(), grant);
        true
    }

    /// Takes the grant of a run back, once its memory is back.
    pub fn release(&mut self, model: &str) -> Option<Grant> {
        self.granted.remove(model)
    }
}

/// Whether `model` may start now. The grant is not entered yet.
///
/// Every one of these must leave room for the whole reserve: the plan (total, less the reserves in force, less what
/// is granted); what is available now, less what running models may still take, less what the reserves' holders may
/// still take; the GPU's limit less what is granted. Holders of reserves are known together, not one by one: what is
/// neither available nor a model's is theirs. Reserves that are not in force are named and not counted.
/// With CUDA the memory in question is the card's: its size and what it has free.
///
/// # Errors
/// A [`Refusal`] whose lines add up to the byte.
pub fn judge(
    ledger: &Ledger,
    live: Live<'_>,
    model: &str,
    estimate: Option<&Estimate>,
) -> Result<Grant, Box<Refusal>> {
    let refuse = |why| {
        Err(Box::new(Refusal {
            model: model.to_owned(),
            host: ledger.host.clone(),
            why,
            checks: Vec::new(),
            remedies: Vec::new(),
        }))
    };
    if ledger.granted.contains_key(model) {
        return refuse(Why::AlreadyGranted);
    }
    let Some(estimate) = estimate else { return refuse(Why::Unknown) };
    let need = estimate.reserve();
    let checks: Vec<Check> =
        checks(ledger, live).into_iter().map(|(name, lines)| Check::of(name, lines, need)).collect();
    if checks.iter().all(|check| check.missing == Bytes::ZERO) {
        return Ok(Grant { bytes: need, forced: false });
    }
    // What could be done elsewhere is not known here.
    let remedies = if ledger.host.is_some() { Vec::new() } else { remedy::remedies(ledger, live, &checks) };
    Err(Box::new(Refusal {
        model: model.to_owned(),
        host: ledger.host.clone(),
        why: Why::NoRoom { need, declared: estimate.declared },
        checks,
        remedies,
    }))
}

/// The checks that apply here, each with the lines that add up to what is free.
pub(super) fn checks(ledger: &Ledger, live: Live<'_>) -> Vec<(&'static str, Vec<Line>)> {
    let mut checks = Vec::new();
    let card = live.platform == Platform::Cuda;
    if !card {
        checks.push(("plan", plan(ledger, live)));
        if let Some(available) = live.reading.available {
            checks.push((AVAILABLE, available_now(ledger, live, available)));
        }
    }
    if let Some(limit) = live.gpu_limit {
        let what = format!("what the GPU may hold ({})", limit.source.name());
        let mut lines = vec![Line::plus(what, limit.bytes)];
        lines.extend(granted(ledger));
        checks.push(("GPU limit", lines));
    }
    if let Some(free) = live.reading.gpu_free.filter(|_| card) {
        let mut lines = vec![Line::plus("free on the card", free)];
        lines.extend(pending(ledger, live, |footprint| footprint.gpu.unwrap_or(Bytes::ZERO)));
        checks.push(("free on the GPU", lines));
    }
    checks
}

fn granted(ledger: &Ledger) -> impl Iterator<Item = Line> + '_ {
    ledger.granted.iter().map(|(name, grant)| {
        Line::minus(format!("{name}, granted{}", if grant.forced { " by force" } else { "" }), grant.bytes)
    })
}

fn plan(ledger: &Ledger, live: Live<'_>) -> Vec<Line> {
    let whose = ledger.host.as_deref().unwrap_or("this machine");
    let sum = balance(ledger.total, &ledger.reserves, live.programs, ledger.sum());
    let mut lines = vec![Line::plus(format!("memory of {whose}"), ledger.total)];
    lines.extend(sum.reserves.iter().map(|reserve| {
        let size = Bytes(reserve.bytes);
        if reserve.active {
            Line::minus(format!("{}, reserved", reserve.name), size)
        } else {
            Line::note(format!("{}: {size} more while it runs", reserve.name))
        }
    }));
    lines.extend(granted(ledger));
    lines
}

fn available_now(ledger: &Ledger, live: Live<'_>, available: Bytes) -> Vec<Line> {
    let mut lines = vec![Line::plus("available now", available)];
    lines.extend(pending(ledger, live, |footprint| footprint.bytes));
    let models: Bytes = live.footprints.values().map(|footprint| footprint.bytes).sum();
    let others = ledger.total.saturating_sub(available + models);
    let reserved = Bytes(balance(ledger.total, &ledger.reserves, live.programs, Bytes::ZERO).reserved_bytes);
    let open = reserved.saturating_sub(others);
    if open > Bytes::ZERO {
        lines.push(Line::minus(format!("reserves, {others} of {reserved} in use"), open));
    }
    lines
}

/// What running models were granted and have not taken yet.
fn pending<'a>(
    ledger: &'a Ledger,
    live: Live<'a>,
    used: impl Fn(&Footprint) -> Bytes + 'a,
) -> impl Iterator<Item = Line> + 'a {
    ledger.granted.iter().filter_map(move |(name, grant)| {
        let now = live.footprints.get(name).map_or(Bytes::ZERO, &used);
        let open = grant.bytes.saturating_sub(now);
        (open > Bytes::ZERO).then(|| Line::minus(format!("{name}, may still take"), open))
    })
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
