//! The limits one backend runs under, as server flags and launcher limits.

use sha2::{Digest, Sha256};

use crate::units::Bytes;

/// Limits of one backend, chosen by [`super::choose`] from the registry's `memory` keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Bounds {
    /// Longest prompt plus answer, tokens; enforced by the gate.
    pub context: u32,
    /// Sequences decoded at once (`--decode-concurrency`, and the gate's in-flight limit).
    pub concurrency: u32,
    /// Prompts processed at once (`--prompt-concurrency`), 1 to `concurrency`.
    pub prompt_concurrency: u32,
    /// Whether requests are batched at all; never with a draft model or quantised caches.
    pub batched: bool,
    /// Prompt tokens per step at the end of the longest context (`--prefill-step-size`).
    pub prefill_step: u32,
    /// Most prompt tokens per step, used where there is room: see [`super::room`].
    pub prefill_most: u32,
    /// Whether kept prompts make room for a prefill, so that only the larger is reserved: see [`super::room`]. False
    /// in a cluster, whose ranks have to keep the same prompts.
    pub shared: bool,
    /// Bytes of caches kept between requests (`--prompt-cache-bytes`; the launcher enforces it).
    pub kv_limit: Bytes,
    /// Most sequences kept between requests (`--prompt-cache-size`).
    pub prompt_caches: u32,
    /// Bytes of MLX's buffer cache (the launcher's limit).
    pub cache_limit: Bytes,
    /// Quantised caches: bits, group size, first quantised position.
    pub kv_quantized: Option<(u64, u64, u64)>,
    pub ceiling: Option<Bytes>,
}

impl Bounds {
    /// The `mlx_lm.server` flags for these bounds, without those for quantised caches and the draft model, which are
    /// options of the model.
    pub(crate) fn arguments(&self) -> Vec<String> {
        [
            ("--decode-concurrency", u64::from(self.concurrency)),
            ("--prompt-concurrency", u64::from(self.prompt_concurrency)),
            ("--prefill-step-size", u64::from(self.prefill_step)),
            ("--prompt-cache-size", u64::from(self.prompt_caches)),
            ("--prompt-cache-bytes", self.kv_limit.0),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.to_string()])
        .collect()
    }

    /// A hash of all bounds, 16 hex digits: footprints are comparable only where it is equal.
    pub(crate) fn fingerprint(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
