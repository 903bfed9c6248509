//! What a model will take, as three figures that are never mixed up: idle (loaded, nothing cached), resident
//! (between requests, caches at their bounds) and peak (inside a prefill at the context limit).

use std::fmt;

use super::bounds::Bounds;
use super::figures::{Estimate, Figure, Origin, PROMPT_CACHE, RUNTIME, SLACK, Term, WORKING};
use super::learn::Learned;
use super::platform::Platform;
use super::profile::Share;
use super::shape::Shape;
use super::weights::Header;
use super::working::{self, Step};
use crate::units::Bytes;

/// What is known of a model's files.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelFiles {
    /// They are there.
    Read(Box<Files>),
    /// They are not there; the registry says so much.
    Declared(Bytes),
    /// Neither.
    Unknown,
}

/// A model folder, as far as memory is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    /// By mlx_lm, else by rules of thumb for `config.json`.
    pub shape: Shape,
    /// As served: by mlx_lm, else from the safetensors headers, all files together.
    pub weights: Header,
    /// Bytes of the tensors that belong to no layer.
    pub outside: Bytes,
    /// Number of safetensors files.
    pub shards: usize,
    /// What an adapter adds to them.
    pub adapter: Header,
    /// What mlx_lm leaves on each rank of the model's cluster; empty: it has none, or mlx_lm was not asked.
    pub shares: Vec<Share>,
}

const ALWAYS: &[Figure] = &[Figure::Idle, Figure::Resident, Figure::Peak];
const WORKED: &[Figure] = &[Figure::Resident, Figure::Peak];
const PEAK: &[Figure] = &[Figure::Peak];

fn term(name: &str, bytes: Bytes, figures: &[Figure], origin: Origin, detail: impl fmt::Display) -> Term {
    Term {
        name: name.to_owned(),
        bytes,
        figures: figures.to_vec(),
        origin,
        detail: detail.to_string(),
        before: None,
    }
}

/// Adds up what a model takes under `bounds`. `None`: nothing is known, not even a declared size, and a start is
/// refused unless forced.
#[must_use]
pub fn estimate(
    files: &ModelFiles,
    draft: Option<&ModelFiles>,
    bounds: &Bounds,
    platform: Platform,
    learned: Option<&Learned>,
) -> Option<Estimate> {
    let files = match files {
        ModelFiles::Read(files) => files,
        ModelFiles::Declared(size) => {
            let whole = term(
                "declared size",
                *size,
                ALWAYS,
                Origin::Declared,
                "`size` in the registry; not downloaded",
            );
            return Some(Estimate::of(vec![whole], bounds.ceiling));
        }
        ModelFiles::Unknown => return None,
    };
    let mut terms = vec![term(
        "weights",
        files.weights.bytes,
        ALWAYS,
        Origin::File,
        format!("{} tensors in {} files", files.weights.tensors, files.shards),
    )];
    if files.adapter.tensors > 0 {
        let detail = format!("{} tensors", files.adapter.tensors);
        terms.push(term("adapter", files.adapter.bytes, ALWAYS, Origin::File, detail));
    }
    let draft = match draft {
        Some(ModelFiles::Read(draft)) => {
            terms.push(term(
                "draft weights",
                draft.weights.bytes,
                ALWAYS,
                Origin::File,
                format!("{} tensors in {} files", draft.weights.tensors, draft.shards),
            ));
            Some(draft)
        }
        Some(ModelFiles::Declared(size)) => {
            terms.push(term("draft weights", *size, ALWAYS, Origin::Declared, "not downloaded"));
            None
        }
        Some(ModelFiles::Unknown) => return None,
        None => None,
    };
    terms.push(term(
        RUNTIME,
        platform.runtime(),
        ALWAYS,
        Origin::Fitted,
        format!("Python and MLX on {}", platform.name()),
    ));
    let tokenizer = Bytes(files.shape.vocab.saturating_mul(platform.word()));
    if tokenizer > Bytes::ZERO {
        let of = format!("{} words", files.shape.vocab);
        terms.push(term("tokenizer", tokenizer, ALWAYS, Origin::Fitted, of));
    }

    let context = u64::from(bounds.context);
    let sequence = kv(files, draft.map(|draft| &**draft), bounds, context);
    let in_flight = Bytes(sequence.0.saturating_mul(u64::from(bounds.concurrency)));
    // More sequences than the count allows are never kept, however small they are.
    let kept = bounds.kv_limit.min(Bytes(sequence.0.saturating_mul(u64::from(bounds.prompt_caches))));
    terms.push(term(
        PROMPT_CACHE,
        kept,
        WORKED,
        Origin::Flag,
        format!("at most {} sequences and {}", bounds.prompt_caches, bounds.kv_limit),
    ));
    // The launcher lets go of a batch once its caches are kept, so between requests nothing is in flight.
    terms.push(term(
        "sequences in flight",
        in_flight,
        PEAK,
        Origin::Config,
        format!(
            "{} × {context} tokens, {} a token",
            bounds.concurrency,
            files.shape.per_token(bounds.kv_quantized)
        ),
    ));

    let prefill = prefill(files, bounds, platform);
    // mlx_lm clears it after every prefill step, so between requests it holds what was freed since: caches that were
    // pushed out, and the last batch's. On a CPU (measured, 0.3 to 1.4 MB) those count above already; on a card the
    // allocator was seen to keep as much again. In a prefill what it holds is counted as the working set.
    if platform != Platform::Cpu {
        let cached = bounds.cache_limit.min(in_flight + in_flight);
        let detail = format!("limited to {}", bounds.cache_limit);
        terms.push(term("MLX buffer cache", cached, WORKED, Origin::Flag, detail));
    }
    terms.push(term(SLACK, platform.slack(), WORKED, Origin::Fitted, "kept by the allocator below MLX"));
    // Kept prompts make room for it (see `room`): the larger of both counts, and the other is part of it.
    let shared = if bounds.shared { kept } else { Bytes::ZERO };
    let steps = format!(
        "{prefill} for {} tokens at once, at the end of {context}",
        bounds.prefill_step.min(bounds.context)
    );
    let detail = if shared > Bytes::ZERO { format!("{steps}; kept prompts make room for it") } else { steps };
    terms.push(term(WORKING, prefill.saturating_sub(shared), PEAK, Origin::Fitted, detail));
    let estimate = Estimate::of(terms, bounds.ceiling);
    Some(match learned {
        Some(learned) => learned.correct(estimate),
        None => estimate,
    })
}

/// What `tokens` tokens of one sequence take, those of the draft model included.
pub(super) fn sequence(files: &Files, draft: Option<&ModelFiles>, bounds: &Bounds, tokens: u32) -> Bytes {
    let draft = match draft {
        Some(ModelFiles::Read(draft)) => Some(&**draft),
        _ => None,
    };
    kv(files, draft, bounds, u64::from(tokens))
}

fn kv(files: &Files, draft: Option<&Files>, bounds: &Bounds, tokens: u64) -> Bytes {
    let of = |files: &Files| files.shape.kv(tokens, bounds.kv_quantized);
    of(files) + draft.map_or(Bytes::ZERO, of)
}

/// The working set of the last step of the longest prefill.
pub(super) fn prefill(files: &Files, bounds: &Bounds, platform: Platform) -> Bytes {
    step(files, bounds, platform, bounds.prefill_step, bounds.context)
}

/// The working set of a step of `tokens` tokens that ends at `context`.
pub(super) fn step(files: &Files, bounds: &Bounds, platform: Platform, tokens: u32, context: u32) -> Bytes {
    let sequences = u64::from(bounds.prompt_concurrency);
    let context = u64::from(context);
    let tokens = u64::from(tokens).min(context).saturating_mul(sequences);
    let step = Step { tokens, context, sequences };
    working::prefill(&files.shape, files.weights.bytes, step, bounds.kv_quantized, platform)
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
