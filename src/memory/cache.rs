//! The caches of a model: which arrays each kind has, and how many rows each array has after a number of tokens.

use std::num::NonZeroU64;

use serde::Deserialize;

/// Tokens by which a cache grows at once (`KVCache.step` in `mlx_lm/models/cache.py`).
pub(crate) const CACHE_STEP: NonZeroU64 = NonZeroU64::new(256).unwrap();

/// All caches of a model that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Cache {
    pub kind: Kind,
    /// Whether it is inside a list of caches, which `--kv-bits` skips.
    pub nested: bool,
    /// Number of caches of this kind in the model.
    pub count: u64,
    pub slots: Vec<Slot>,
}

/// Kinds of cache as messages name them; sizes follow from the arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Grows with the sequence (`KVCache` in mlx_lm).
    Full,
    /// Grows with the sequence and holds a latent (MLA).
    Compressed,
    /// Holds a sliding window of tokens (`RotatingKVCache`).
    Rotating,
    /// Holds the current attention chunk (`ChunkedKVCache`).
    Chunked,
    /// Quantised by the model, not by `--kv-bits`.
    Quantized,
    /// Fixed size, whatever the sequence (`ArraysCache`).
    Recurrent,
    None,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// Bytes per element, before quantisation.
    pub element: u64,
    /// KV heads; 0: the array has none.
    #[serde(default)]
    pub heads: u64,
    /// Elements per head and row.
    #[serde(default)]
    pub width: u64,
    /// Bytes per row, all heads together.
    pub bytes: u64,
    /// Number of rows after a number of tokens.
    #[serde(flatten)]
    pub law: Law,
}

/// Rows of an array after a number of tokens; `rows` in `profile_caches.py` implements the same rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "law", rename_all = "lowercase")]
pub enum Law {
    /// One row, whatever the sequence.
    Fixed,
    /// One row per token, rounded up to a multiple of `step`.
    Stepped { step: NonZeroU64 },
    /// Not known exactly; never more than [`Law::Stepped`] has.
    Bound { step: NonZeroU64 },
    /// As many rows as the prompt has tokens, grown by `step` with the answer, up to `window`.
    Rotating { step: NonZeroU64, window: u64 },
    /// One row per token, up to `window`.
    Window { window: u64 },
    /// Cut to a chunk of `window` tokens, which then grows by `step`.
    Chunked { step: NonZeroU64, window: u64 },
    /// One row for every `step` tokens.
    Quotient { step: NonZeroU64 },
    /// One row per token that does not fill a group of `step` yet.
    Remainder { step: NonZeroU64 },
}

/// Quantised caches: bits, group size, and the position at which quantisation starts (`--kv-bits`, `--kv-group-size`,
/// `--quantized-kv-start`).
pub(crate) type Quantized = (u64, u64, u64);

impl Law {
    pub fn rows(self, tokens: u64) -> u64 {
        match self {
            Self::Fixed => 1,
            Self::Stepped { step } | Self::Bound { step } => grown(tokens, step),
            Self::Rotating { step, window } => tokens.saturating_add(step.get() - 1).min(window),
            Self::Window { window } => tokens.min(window),
            Self::Chunked { step, window } => {
                let full = tokens.saturating_sub(1) > window
                    || (tokens > window && window.is_multiple_of(step.get()));
                if full { window.saturating_add(step.get()) } else { grown(tokens, step) }
            }
            Self::Quotient { step } => tokens / step,
            Self::Remainder { step } => tokens % step,
        }
    }

    /// The most rows it reaches; `None`: it grows with the sequence without limit.
    pub fn window(self) -> Option<u64> {
        match self {
            Self::Stepped { .. } | Self::Bound { .. } | Self::Quotient { .. } => None,
            Self::Rotating { window, .. } | Self::Window { window } | Self::Chunked { window, .. } => {
                Some(window)
            }
            Self::Fixed => Some(1),
            Self::Remainder { step } => Some(step.get()),
        }
    }

    /// Whether it has one row per token, at least up to its window.
    pub(super) fn is_per_token(self) -> bool {
        !matches!(self, Self::Fixed | Self::Remainder { .. } | Self::Quotient { .. })
    }
}

fn grown(tokens: u64, step: NonZeroU64) -> u64 {
    tokens.div_ceil(step.get()).saturating_mul(step.get())
}

impl Slot {
    /// An array of keys or values: `heads` heads of `width` elements per row.
    pub fn of(heads: u64, width: u64, element: u64, law: Law) -> Self {
        Self { element, heads, width, bytes: heads.saturating_mul(width).saturating_mul(element), law }
    }

    /// Bytes of a row as `QuantizedKVCache` lays it out: packed 32-bit words, plus a scale and a bias per group.
    pub(super) fn quantized(&self, (bits, group, _): Quantized) -> u64 {
        let words = self.width.saturating_mul(bits).div_ceil(32).saturating_mul(4);
        let scales = (self.width / group.max(1)).saturating_mul(2 * self.element);
        self.heads.saturating_mul(words.saturating_add(scales))
    }

    pub(super) fn bytes_at(&self, tokens: u64, quantized: Option<Quantized>) -> u64 {
        match quantized {
            // The larger of its two peaks: just before the switch to quantised, or at the end.
            Some(how) if tokens >= how.2 => {
                let before = self.law.rows(how.2.min(tokens)).saturating_mul(self.bytes);
                self.law.rows(tokens).saturating_mul(self.quantized(how)).max(before)
            }
            _ => self.law.rows(tokens).saturating_mul(self.bytes),
        }
    }
}

impl Cache {
    /// How `--kv-bits` quantises this cache; `None` for most kinds.
    pub(super) fn quantized(&self, how: Option<Quantized>) -> Option<Quantized> {
        how.filter(|_| !self.nested && matches!(self.kind, Kind::Full | Kind::Compressed))
    }
}
