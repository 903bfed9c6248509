//! From the `memory` keys of a model to the server's flags and the launcher's limits, so that the promised ceiling
//! holds.

use sha2::{Digest, Sha256};

use crate::units::Bytes;

/// What one backend is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Bounds {
    /// Longest prompt plus answer, tokens: what the gate lets through.
    pub context: u32,
    /// Sequences decoded at once (`--decode-concurrency`, and the gate's in-flight limit).
    pub concurrency: u32,
    /// Prompts processed at once (`--prompt-concurrency`).
    pub prompt_concurrency: u32,
    /// Whether requests are batched at all: not with a draft model or quantised caches.
    pub batched: bool,
    /// Prompt tokens per step at the end of the longest context (`--prefill-step-size`).
    pub prefill_step: u32,
    /// Prompt tokens per step where there is room for more: see [`super::room`].
    pub prefill_most: u32,
    /// Whether kept prompts make room for a prefill, so that both are promised once: see [`super::room`]. Not in a
    /// cluster, whose ranks have to keep the same prompts.
    pub shared: bool,
    /// Bytes of caches kept between requests (`--prompt-cache-bytes`, and the launcher's bound that holds).
    pub kv_limit: Bytes,
    /// Sequences kept between requests (`--prompt-cache-size`).
    pub prompt_caches: u32,
    /// MLX's buffer cache (the launcher's limit).
    pub cache_limit: Bytes,
    /// Quantised caches: bits, group size, first quantised position.
    pub kv_quantized: Option<(u64, u64, u64)>,
    /// The registry's `memory.ceiling`.
    pub ceiling: Option<Bytes>,
}

impl Bounds {
    /// The flags of `mlx_lm.server` that follow. Not among them: quantised caches and the draft model, which are
    /// the model's own options.
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

    /// Tells runs apart whose footprints are not comparable: a hash of everything here.
    pub(crate) fn fingerprint(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
