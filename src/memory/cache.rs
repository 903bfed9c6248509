//! One kind of cache of a model: what arrays it has, and how many rows each has after a number of tokens.

use std::num::NonZeroU64;

use serde::Deserialize;

/// Caches grow by so many tokens at once (`KVCache.step` in `mlx_lm/models/cache.py`).
pub(crate) const CACHE_STEP: NonZeroU64 = NonZeroU64::new(256).unwrap();

/// One kind of cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Cache {
    pub kind: Kind,
    /// Whether it lies in a list of caches, which `--kv-bits` passes over.
    pub nested: bool,
    /// How many of them there are.
    pub count: u64,
    pub slots: Vec<Slot>,
}

/// Kinds of cache that are told apart in words; how large each is, its arrays say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Grows with the sequence (`KVCache`).
    Full,
    /// The same, of a latent (MLA).
    Compressed,
    /// Holds the last tokens (`RotatingKVCache`).
    Rotating,
    /// Holds the last chunk (`ChunkedKVCache`).
    Chunked,
    /// Quantised by the model itself.
    Quantized,
    /// Does not grow (`ArraysCache`).
    Recurrent,
    /// Keeps nothing.
    None,
    /// None of these.
    Other,
}

/// One array of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// Bytes of an element.
    pub element: u64,
    /// KV heads, where it has any.
    #[serde(default)]
    pub heads: u64,
    /// Elements of a head.
    #[serde(default)]
    pub width: u64,
    /// Bytes of a row.
    pub bytes: u64,
    /// How many rows.
    #[serde(flatten)]
    pub law: Law,
}

/// Rows of an array after a number of tokens (`rows` in `profile_caches.py` is the same).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "law", rename_all = "lowercase")]
pub enum Law {
    /// One, always.
    Fixed,
    /// One a token, rounded up to `step`.
    Stepped {
        /// How many at once.
        step: NonZeroU64,
    },
    /// Not known exactly: never more than this.
    Bound {
        /// How many at once.
        step: NonZeroU64,
    },
    /// As long as the prompt, grown by a step with the answer, up to the window.
    Rotating {
        /// How many at once.
        step: NonZeroU64,
        window: u64,
    },
    /// One a token, up to the window.
    Window { window: u64 },
    /// Cut to the chunk, which then grows by a step.
    Chunked {
        /// How many at once.
        step: NonZeroU64,
        window: u64,
    },
    /// One for every `step` tokens.
    Quotient {
        /// Tokens a row.
        step: NonZeroU64,
    },
    /// The tokens that do not fill a group of `step` yet.
    Remainder {
        /// Tokens a group.
        step: NonZeroU64,
    },
}

/// Quantised caches: bits, group size, and the position from which they are quantised (`--kv-bits`,
/// `--kv-group-size`, `--quantized-kv-start`).
pub(crate) type Quantized = (u64, u64, u64);

impl Law {
    /// Rows after `tokens` tokens.
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

    /// The longest that it gets; `None`: it grows as long as the sequence does.
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

    /// Whether it has a row a token.
    pub(super) fn is_per_token(self) -> bool {
        !matches!(self, Self::Fixed | Self::Remainder { .. } | Self::Quotient { .. })
    }
}

fn grown(tokens: u64, step: NonZeroU64) -> u64 {
    tokens.div_ceil(step.get()).saturating_mul(step.get())
}

impl Slot {
    /// Keys, or values, of `heads` heads.
    pub fn of(heads: u64, width: u64, element: u64, law: Law) -> Self {
        Self { element, heads, width, bytes: heads.saturating_mul(width).saturating_mul(element), law }
    }

    /// A row as `QuantizedKVCache` lays it out: packed 32-bit words, and a scale and a bias a group.
    pub(super) fn quantized(&self, (bits, group, _): Quantized) -> u64 {
        let words = self.width.saturating_mul(bits).div_ceil(32).saturating_mul(4);
        let scales = (self.width / group.max(1)).saturating_mul(2 * self.element);
        self.heads.saturating_mul(words.saturating_add(scales))
    }

    pub(super) fn bytes_at(&self, tokens: u64, quantized: Option<Quantized>) -> u64 {
        match quantized {
            // The largest that it ever was: just before the switch to quantised, or at the end.
            Some(how) if tokens >= how.2 => {
                let before = self.law.rows(how.2.min(tokens)).saturating_mul(self.bytes);
                self.law.rows(tokens).saturating_mul(self.quantized(how)).max(before)
            }
            _ => self.law.rows(tokens).saturating_mul(self.bytes),
        }
    }
}

impl Cache {
    /// What `--kv-bits` makes of it: nothing of most kinds.
    pub(super) fn quantized(&self, how: Option<Quantized>) -> Option<Quantized> {
        how.filter(|_| !self.nested && matches!(self.kind, Kind::Full | Kind::Compressed))
    }
}
