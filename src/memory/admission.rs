//! Whether a start fits: bytes are reserved when a start is granted, not when they are seen.

use super::checks::{Check, checks};
use super::figures::Estimate;
use super::ledger::{Grant, Ledger, Live};
use super::refusal::{Refusal, Why};
use super::remedy::remedies;
use crate::units::Bytes;

/// Decides whether `model` may start now, without entering the grant.
///
/// Each of these must leave room for the whole reserve: the plan (total, less the reserves in force, less all grants);
/// what is available now, less what running models and the holders of reserves may still take; the GPU limit, less all
/// grants. Holders of reserves are known only as a whole: what is neither available nor a model's is theirs. Reserves
/// that are not in force are listed but not counted. With CUDA the card's memory is checked: its size and what is free.
///
/// # Errors
/// A [`Refusal`] whose lines add up to the byte.
pub(crate) fn judge(
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
    if ledger.granted().contains_key(model) {
        return refuse(Why::AlreadyGranted);
    }
    let Some(estimate) = estimate else { return refuse(Why::Unknown) };
    let need = estimate.reserve();
    let checks: Vec<Check> =
        checks(ledger, live).into_iter().map(|(name, lines)| Check::of(name, lines, need)).collect();
    if checks.iter().all(|check| check.missing == Bytes::ZERO) {
        return Ok(Grant { bytes: need, forced: false });
    }
    // Nothing is known here of what could be stopped on another machine.
    let remedies = if ledger.host.is_some() { Vec::new() } else { remedies(ledger, live, &checks) };
    Err(Box::new(Refusal {
        model: model.to_owned(),
        host: ledger.host.clone(),
        why: Why::NoRoom { need, declared: estimate.declared },
        checks,
        remedies,
    }))
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
