//! Corrects estimates by what was measured. Pure; the supervisor keeps the store on disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figures::{Estimate, Figure, Origin, RUNTIME, SLACK, Term, WORKING};
use crate::units::Bytes;

/// The highest footprints of one model under one set of versions and bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Learned {
    pub idle: Option<Bytes>,
    pub resident: Option<Bytes>,
    pub peak: Option<Bytes>,
}

/// Everything learned so far; the content of `learned.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Store {
    /// The version of this document, [`SCHEMA`].
    pub schema: u32,
    /// Keyed by repository, versions and settings: [`key`].
    pub models: BTreeMap<String, Learned>,
}

/// The version of [`Store`]. A store of another version is not read: everything can be learned again.
pub(crate) const SCHEMA: u32 = 1;

/// Most entries kept. A registry has a few models, and each a few settings.
const MOST: usize = 256;

/// The key of a footprint: the repository or folder, the versions of MLX and mlx-lm, and the hash of the settings.
pub(crate) fn key(repo: &str, versions: &str, settings: &str) -> String {
    format!("{repo} {versions} {settings}")
}

impl Learned {
    /// The higher value of each figure.
    pub(crate) fn merge(self, other: Self) -> Self {
        Self {
            idle: self.idle.max(other.idle),
            resident: self.resident.max(other.resident),
            peak: self.peak.max(other.peak),
        }
    }

    /// Corrects an estimate by changing fitted terms, never exact ones.
    ///
    /// Every run reaches idle, so the measured value replaces the estimate. Resident and peak are only ever raised: a
    /// lower reading says nothing about a request next to a full prompt cache, which may come at any time.
    pub(crate) fn correct(&self, estimate: Estimate) -> Estimate {
        let corrected = match self.idle {
            Some(idle) => shift(estimate, Figure::Idle, RUNTIME, idle),
            None => estimate,
        };
        let corrected = match self.resident.filter(|measured| *measured > corrected.resident) {
            Some(resident) => shift(corrected, Figure::Resident, SLACK, resident),
            None => corrected,
        };
        // A peak below the resident figure means that the sampling missed it.
        let floor = corrected.resident;
        match self.peak.filter(|measured| *measured > corrected.peak) {
            Some(peak) => shift(corrected, Figure::Peak, WORKING, peak.max(floor)),
            None => corrected,
        }
    }
}

impl Store {
    /// Merges what a run has shown. A new key in a full store empties it first.
    pub(crate) fn observe(&mut self, key: &str, seen: Learned) {
        self.schema = SCHEMA;
        if self.models.len() >= MOST && !self.models.contains_key(key) {
            self.models.clear();
        }
        let entry = self.models.entry(key.to_owned()).or_default();
        *entry = entry.merge(seen);
    }

    /// What was learned under `key`; `None` also if the store has another schema version.
    pub(crate) fn get(&self, key: &str) -> Option<&Learned> {
        self.models.get(key).filter(|_| self.schema == SCHEMA)
    }
}

/// Changes the term `name` so that `figure` becomes `wanted`, or as near as that term allows.
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
