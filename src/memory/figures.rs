//! What an estimate is made of: terms, each with its source, that add up to three figures.

use serde::Serialize;

use crate::units::Bytes;

/// The names of the terms that a measurement may correct, one a figure.
pub(super) const PROMPT_CACHE: &str = "prompt cache";
pub(super) const RUNTIME: &str = "runtime";
pub(super) const SLACK: &str = "allocator slack";
pub(super) const WORKING: &str = "prefill working set";

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// Read from the weights' files.
    File,
    /// Follows from `config.json`.
    Config,
    /// A bound that is set for the backend (a flag or the launcher's limit).
    Flag,
    /// A formula fitted to measurements, not to this model.
    Fitted,
    /// Measured on this machine with this model.
    Learned,
    /// The registry's `size`.
    Declared,
}

impl Origin {
    /// As `mlxctl estimate` prints it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Config => "config",
            Self::Flag => "flag",
            Self::Fitted => "fitted",
            Self::Learned => "learned",
            Self::Declared => "declared",
        }
    }
}

/// The three figures; also the first one that a term counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Figure {
    /// Loaded, nothing cached.
    Idle,
    /// Between requests.
    Resident,
    /// Inside a prefill.
    Peak,
}

/// One summand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Term {
    /// For people.
    pub name: String,
    pub bytes: Bytes,
    /// The figures that it counts in, in order.
    pub figures: Vec<Figure>,
    pub origin: Origin,
    /// What it is made of: "1607 tensors in 4 files".
    pub detail: String,
    /// What it was before it was corrected by a measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Bytes>,
}

/// The sum of terms, a figure each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Estimate {
    pub terms: Vec<Term>,
    /// Loaded, nothing cached.
    pub idle: Bytes,
    /// Between requests, caches at their bounds.
    pub resident: Bytes,
    /// Inside a prefill at the context limit.
    pub peak: Bytes,
    /// The registry's `memory.ceiling`.
    pub ceiling: Option<Bytes>,
    /// Whether it stands on the registry's `size` alone.
    pub declared: bool,
}

impl Estimate {
    /// What admission reserves: the peak, or the ceiling that the backend is held to.
    pub(crate) fn reserve(&self) -> Bytes {
        self.ceiling.map_or(self.peak, |ceiling| self.peak.min(ceiling))
    }

    pub(crate) fn figure(&self, figure: Figure) -> Bytes {
        match figure {
            Figure::Idle => self.idle,
            Figure::Resident => self.resident,
            Figure::Peak => self.peak,
        }
    }

    /// Adds up.
    pub(crate) fn of(terms: Vec<Term>, ceiling: Option<Bytes>) -> Self {
        let sum =
            |figure| terms.iter().filter(|term| term.figures.contains(&figure)).map(|term| term.bytes).sum();
        let declared = terms.iter().any(|term| term.origin == Origin::Declared);
        Self {
            idle: sum(Figure::Idle),
            resident: sum(Figure::Resident),
            peak: sum(Figure::Peak),
            terms,
            ceiling,
            declared,
        }
    }
}
