//! What `mlxctl bench --json` prints. Its keys are stable; what is unknown is null.

use serde::Serialize;

use super::roofline::{Roofline, TargetVerdict};
use super::run::Measured;
use crate::registry::{Model, ProcessType, ServerOptions};

pub(crate) const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub schema: u32,
    /// When the bench ended, RFC 3339, UTC.
    pub at: String,
    pub version: String,
    pub model: String,
    pub repo: String,
    /// Server options that affect speed, as the registry has them; empty: the server's own defaults.
    pub settings: String,
    /// What was measured: the gate, or another server.
    pub url: String,
    pub chip: Option<String>,
    /// Number of CPU cores of this machine.
    pub cores: u32,
    /// The agent's ProcessType in the registry, which on a Mac may cost most of the speed.
    pub process_type: ProcessType,
    pub measured: Measured,
    /// The highest footprint of the backend that was seen, bytes.
    pub peak_bytes: Option<u64>,
    pub roofline: Option<Roofline>,
    /// Why there is no `roofline`; null: there is.
    pub roofline_unknown: Option<String>,
    /// Measured speed of one stream ÷ its limit.
    pub share: Option<f64>,
    /// The registry's `target`, tokens per second.
    pub target: Option<f64>,
    pub target_verdict: Option<TargetVerdict>,
}

/// The server options of a model that affect its speed, as the registry spells them.
pub(crate) fn settings(model: &Model) -> String {
    let ServerOptions { draft_model, num_draft_tokens, kv_bits, kv_group_size, quantized_kv_start, .. } =
        &model.server;
    let ServerOptions { decode_concurrency, prompt_concurrency, prefill_step_size, adapter_path, .. } =
        &model.server;
    let number = |name: &str, value: Option<u32>| value.map(|value| format!("{name} = {value}"));
    [
        draft_model.as_ref().map(|repo| format!("draft_model = {repo:?}")),
        number("num_draft_tokens", *num_draft_tokens),
        adapter_path.as_ref().map(|path| format!("adapter_path = {:?}", path.display().to_string())),
        kv_bits.map(|bits| format!("kv_bits = {bits}")),
        number("kv_group_size", *kv_group_size),
        number("quantized_kv_start", *quantized_kv_start),
        number("decode_concurrency", *decode_concurrency),
        number("prompt_concurrency", *prompt_concurrency),
        number("prefill_step_size", *prefill_step_size),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(", ")
}
