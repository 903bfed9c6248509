//! Actions that would make room for a refused start.

use serde::Serialize;

use super::budget::in_force;
use super::checks::{Check, checks};
use super::ledger::{Grant, Ledger, Live};
use crate::registry::Reserve;
use crate::units::Bytes;

/// One action that a person could take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Remedy {
    /// "stop 32b", "quit Civ V", "trim 32b".
    pub act: String,
    /// The mlxctl command for it; `None`: mlxctl cannot do it.
    pub command: Option<String>,
    /// The gain in the failed check that gains least.
    pub frees: Bytes,
    /// Whether all checks pass after this action alone.
    pub enough: bool,
}

/// Every single action that helps, the most helpful first. What each frees is found by repeating the checks as if it
/// were done.
pub(super) fn remedies(ledger: &Ledger, live: Live<'_>, failed: &[Check]) -> Vec<Remedy> {
    let mut remedies: Vec<Remedy> = ledger
        .granted()
        .iter()
        .flat_map(|(name, grant)| {
            [trim(ledger, live, failed, name, *grant), stop(ledger, live, failed, name)]
        })
        .collect();
    let programs = ledger.reserves.iter().filter(|reserve| !reserve.while_running.is_empty());
    let running = programs.filter(|reserve| in_force(reserve, live.programs));
    remedies.extend(running.map(|reserve| quit(ledger, live, failed, reserve)));
    remedies.retain(|remedy| remedy.frees > Bytes::ZERO);
    remedies.sort_by(|a, b| b.frees.cmp(&a.frees).then_with(|| a.act.cmp(&b.act)));
    remedies
}

/// A model that exceeds its grant gives the difference back when its caches are trimmed.
fn trim(ledger: &Ledger, live: Live<'_>, failed: &[Check], name: &str, grant: Grant) -> Remedy {
    let mut footprints = live.footprints.clone();
    let mut reading = *live.reading;
    if let Some(footprint) = footprints.get_mut(name) {
        let over = footprint.bytes.saturating_sub(grant.bytes);
        footprint.bytes = footprint.bytes.min(grant.bytes);
        reading.available = reading.available.map(|available| available + over);
    }
    let after = Live { reading: &reading, footprints: &footprints, ..live };
    remedy(format!("trim {name}"), Some(format!("mlxctl trim {name}")), failed, ledger, after)
}

fn stop(ledger: &Ledger, live: Live<'_>, failed: &[Check], name: &str) -> Remedy {
    let mut without = ledger.clone();
    let _ = without.release(name);
    let mut footprints = live.footprints.clone();
    let used = footprints.remove(name).unwrap_or_default();
    let mut reading = *live.reading;
    reading.available = reading.available.map(|available| available + used.bytes);
    reading.gpu_free = reading.gpu_free.map(|free| free + used.gpu.unwrap_or(Bytes::ZERO));
    let after = Live { reading: &reading, footprints: &footprints, ..live };
    remedy(format!("stop {name}"), Some(format!("mlxctl stop {name}")), failed, &without, after)
}

fn quit(ledger: &Ledger, live: Live<'_>, failed: &[Check], reserve: &Reserve) -> Remedy {
    let mut without = ledger.clone();
    without.reserves.retain(|other| other != reserve);
    // What the program itself holds is not known, so at most its reserve counts as freed.
    let mut reading = *live.reading;
    let models: Bytes = live.footprints.values().map(|footprint| footprint.bytes).sum();
    reading.available = reading.available.map(|available| {
        let others = ledger.total.saturating_sub(available + models);
        available + reserve.size.min(others)
    });
    let after = Live { reading: &reading, ..live };
    remedy(format!("quit {}", reserve.name), None, failed, &without, after)
}

fn remedy(
    act: String,
    command: Option<String>,
    failed: &[Check],
    ledger: &Ledger,
    after: Live<'_>,
) -> Remedy {
    let checks: Vec<Check> = checks(ledger, after)
        .into_iter()
        .zip(failed)
        .map(|((name, lines), before)| Check::of(name, lines, before.need))
        .collect();
    let frees = checks
        .iter()
        .zip(failed)
        .filter(|(_, before)| before.missing > Bytes::ZERO)
        .map(|(after, before)| Bytes(u64::try_from(after.free - before.free).unwrap_or(0)))
        .min()
        .unwrap_or(Bytes::ZERO);
    Remedy { act, command, frees, enough: checks.iter().all(|check| check.missing == Bytes::ZERO) }
}
