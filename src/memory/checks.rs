//! The limits that must leave room for a start, each as a list of lines that adds up.

use serde::Serialize;

use super::budget::balance;
use super::ledger::{Ledger, Live};
use super::platform::Platform;
use crate::host::Footprint;
use crate::units::Bytes;

/// Name of the check against what the machine has available at the moment.
pub(super) const AVAILABLE: &str = "available now";

/// One limit that must leave room. `free` is the sum of the lines; `missing` is `need` − `free`, at least 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// "plan", "available now", "GPU limit", "free on the GPU".
    pub name: String,
    pub lines: Vec<Line>,
    pub free: i128,
    pub need: Bytes,
    pub missing: Bytes,
}

/// A summand; 0 for a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    pub name: String,
    /// Negative where something is subtracted. The sum of a few 64-bit numbers always fits.
    pub bytes: i128,
}

impl Line {
    pub(super) fn plus(name: impl Into<String>, bytes: Bytes) -> Self {
        Self { name: name.into(), bytes: i128::from(bytes.0) }
    }

    pub(super) fn minus(name: impl Into<String>, bytes: Bytes) -> Self {
        Self { name: name.into(), bytes: -i128::from(bytes.0) }
    }

    pub(super) fn note(name: impl Into<String>) -> Self {
        Self { name: name.into(), bytes: 0 }
    }
}

impl Check {
    pub(super) fn of(name: &str, lines: Vec<Line>, need: Bytes) -> Self {
        let free: i128 = lines.iter().map(|line| line.bytes).sum();
        let missing = Bytes(u64::try_from(i128::from(need.0) - free).unwrap_or(0));
        Self { name: name.to_owned(), lines, free, need, missing }
    }
}

/// The checks that apply on this platform, each with the lines that add up to what is free.
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
    ledger.granted().iter().map(|(name, grant)| {
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

/// What running models have been granted but do not use yet.
fn pending<'a>(
    ledger: &'a Ledger,
    live: Live<'a>,
    used: impl Fn(&Footprint) -> Bytes + 'a,
) -> impl Iterator<Item = Line> + 'a {
    ledger.granted().iter().filter_map(move |(name, grant)| {
        let now = live.footprints.get(name).map_or(Bytes::ZERO, &used);
        let open = grant.bytes.saturating_sub(now);
        (open > Bytes::ZERO).then(|| Line::minus(format!("{name}, may still take"), open))
    })
}
