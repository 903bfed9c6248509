//! An estimate: terms, each with its source, that add up to three figures.

use serde::Serialize;

use crate::units::Bytes;

// Names of terms that other modules look up: `learn` corrects the last three, one per figure.
pub(super) const PROMPT_CACHE: &str = "prompt cache";
pub(super) const RUNTIME: &str = "runtime";
pub(super) const SLACK: &str = "allocator slack";
pub(super) const WORKING: &str = "prefill working set";

/// The source of a term's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// Read from the weights' headers, or measured by mlx_lm's profile.
    File,
    /// Computed from `config.json` or mlx_lm's profile.
    Config,
    /// A bound set for the backend (a flag or the launcher's limit).
    Flag,
    /// A formula fitted to measurements, not to this model.
    Fitted,
    /// Measured on this machine with this model.
    Learned,
    Declared,
}

impl Origin {
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

/// The three figures, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Figure {
    /// Loaded, with no caches and no requests.
    Idle,
    /// Between requests, with caches at their bounds.
    Resident,
    /// Inside a prefill at the context limit.
    Peak,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Term {
    pub name: String,
    pub bytes: Bytes,
    /// The figures that it counts in, in rising order.
    pub figures: Vec<Figure>,
    pub origin: Origin,
    /// What it is made of: "1607 tensors in 4 files".
    pub detail: String,
    /// The bytes before a measurement corrected them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Bytes>,
}

/// Terms and their sums, one per figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Estimate {
    pub terms: Vec<Term>,
    pub idle: Bytes,
    pub resident: Bytes,
    pub peak: Bytes,
    pub ceiling: Option<Bytes>,
    /// Whether any term is the registry's `size`.
    pub declared: bool,
}

impl Estimate {
    /// What admission reserves: the peak, or the ceiling if that is lower.
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
