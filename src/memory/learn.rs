//! What was measured corrects what is estimated next. Pure; the supervisor keeps the store on disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, Figure, Origin, RUNTIME, SLACK, Term, WORKING};
use crate::units::Bytes;

/// The highest footprints of one model under one version and one set of bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// Just loaded, nothing cached.
    pub idle: Option<Bytes>,
    /// Between requests.
    pub resident: Option<Bytes>,
    /// Inside a request.
    pub peak: Option<Bytes>,
    /// Prompt plus answer of the longest request so far, tokens; 0: not known.
    pub longest: u32,
}

/// Everything that was learned; the document that is kept in `learned.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// The version of this document, [`SCHEMA`].
    pub schema: u32,
    /// By [`key`].
    pub models: BTreeMap<String, Learned>,
}

/// The version of [`Store`]. A store of another version is not read: everything can be learned again.
pub const SCHEMA: u32 = 1;

/// No more entries than this are kept; a registry has a few models and each a few settings.
const MOST: usize = 256;

/// Under what a footprint is kept: the repository or folder, the versions of MLX and mlx-lm, and the settings' hash.
#[must_use]
pub fn key(repo: &str, versions: &str, settings: &str) -> String {
    format!("{repo} {versions} {settings}")
}

impl Learned {
    /// The higher of both in everything.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            idle: self.idle.max(other.idle),
            resident: self.resident.max(other.resident),
            peak: self.peak.max(other.peak),
            longest: self.longest.max(other.longest),
        }
    }

    /// Corrects an estimate for sequences of `context` tokens.
    ///
    /// Idle is reached in every run, so the measured one replaces the estimated one. Resident and peak were only
    /// reached if requests were long enough: more than estimated always counts, less only after a request of nine
    /// tenths of the context, and then with 1 % on top. Only fitted terms are changed, never exact ones.
    #[must_use]
    pub fn correct(&self, estimate: Estimate, context: u32) -> Estimate {
        let full = u64::from(self.longest) * 10 >= u64::from(context) * 9;
        let corrected = match self.idle {
            Some(idle) => shift(estimate, Figure::Idle, RUNTIME, idle),
            None => estimate,
        };
        let corrected = match target(self.resident, corrected.resident, full) {
            Some(resident) => shift(corrected, Figure::Resident, SLACK, resident),
            None => corrected,
        };
        // A peak below what stays afterwards was not seen in time.
        let floor = corrected.resident;
        match target(self.peak, corrected.peak, full) {
            Some(peak) => shift(corrected, Figure::Peak, WORKING, peak.max(floor)),
            None => corrected,
        }
    }
}

impl Store {
    /// Takes in what a run has shown.
    pub fn observe(&mut self, key: &str, seen: Learned) {
        self.schema = SCHEMA;
        if self.models.len() >= MOST && !self.models.contains_key(key) {
            self.models.clear();
        }
        let entry = self.models.entry(key.to_owned()).or_default();
        *entry = entry.merge(seen);
    }

    /// What is known, unless the store is of another version.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Learned> {
        self.models.get(key).filter(|_| self.schema == SCHEMA)
    }
}

fn target(measured: Option<Bytes>, estimated: Bytes, full: bool) -> Option<Bytes> {
    let measured = measured?;
    if measured > estimated {
        return Some(measured);
    }
    full.then(|| (measured + Bytes(measured.0 / 100)).min(estimated))
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
