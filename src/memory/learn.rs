//! What was measured corrects what is estimated next. Pure; the supervisor keeps the store on disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figures::{Estimate, Figure, Origin, RUNTIME, SLACK, Term, WORKING};
use crate::units::Bytes;

/// The highest footprints of one model under one version and one set of bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Learned {
    /// Just loaded, nothing cached.
    pub idle: Option<Bytes>,
    /// Between requests.
    pub resident: Option<Bytes>,
    /// Inside a request.
    pub peak: Option<Bytes>,
}

/// Everything that was learned; the document that is kept in `learned.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Store {
    /// The version of this document, [`SCHEMA`].
    pub schema: u32,
    /// By [`key`].
    pub models: BTreeMap<String, Learned>,
}

/// The version of [`Store`]. A store of another version is not read: everything can be learned again.
pub(crate) const SCHEMA: u32 = 1;

/// No more entries than this are kept; a registry has a few models and each a few settings.
const MOST: usize = 256;

/// Under what a footprint is kept: the repository or folder, the versions of MLX and mlx-lm, and the settings' hash.
pub(crate) fn key(repo: &str, versions: &str, settings: &str) -> String {
    format!("{repo} {versions} {settings}")
}

impl Learned {
    /// The higher of both in everything.
    pub(crate) fn merge(self, other: Self) -> Self {
        Self {
            idle: self.idle.max(other.idle),
            resident: self.resident.max(other.resident),
            peak: self.peak.max(other.peak),
        }
    }

    /// Corrects an estimate.
    ///
    /// Idle is reached in every run, so the measured one replaces the estimated one. Of resident and peak only more
    /// than estimated counts: that less was seen says nothing of a request beside a full prompt cache, which may come
    /// any time. Only fitted terms are changed, never exact ones.
    pub(crate) fn correct(&self, estimate: Estimate) -> Estimate {
        let corrected = match self.idle {
            Some(idle) => shift(estimate, Figure::Idle, RUNTIME, idle),
            None => estimate,
        };
        let corrected = match self.resident.filter(|measured| *measured > corrected.resident) {
            Some(resident) => shift(corrected, Figure::Resident, SLACK, resident),
            None => corrected,
        };
        // A peak below what stays afterwards was not seen in time.
        let floor = corrected.resident;
        match self.peak.filter(|measured| *measured > corrected.peak) {
            Some(peak) => shift(corrected, Figure::Peak, WORKING, peak.max(floor)),
            None => corrected,
        }
    }
}

impl Store {
    /// Takes in what a run has shown.
    pub(crate) fn observe(&mut self, key: &str, seen: Learned) {
        self.schema = SCHEMA;
        if self.models.len() >= MOST && !self.models.contains_key(key) {
            self.models.clear();
        }
        let entry = self.models.entry(key.to_owned()).or_default();
        *entry = entry.merge(seen);
    }

    /// What is known, unless the store is of another version.
    pub(crate) fn get(&self, key: &str) -> Option<&Learned> {
        self.models.get(key).filter(|_| self.schema == SCHEMA)
    }
}

/// Changes the term `name` so that `figure` becomes `wanted`, or as near to it as that term allows.
fn shift(estimate: Estimate, figure: Figure, name: &str, wanted: Bytes) -> Estimate {
    let now = estimate.figure(figure);
    if now == wanted {
        return estimate;
    }
    let mut terms = estimate.terms;
    match terms.iter_mut().find(|term| term.name == name) {
        Some(term) => {
            term.before = Some(term.before.unwrap_or(term.bytes));
            term.bytes = (term.bytes + wanted).saturating_sub(now);
            term.origin = Origin::Learned;
        }
        None if wanted > now => terms.push(Term {
            name: "measured above the estimate".to_owned(),
            bytes: wanted.saturating_sub(now),
            figures: [Figure::Idle, Figure::Resident, Figure::Peak]
                .into_iter()
                .filter(|f| *f >= figure)
                .collect(),
            origin: Origin::Learned,
            detail: String::new(),
            before: None,
        }),
        None => {}
    }
    Estimate::of(terms, estimate.ceiling)
}

#[cfg(test)]
#[path = "learn_tests.rs"]
mod tests;
