//! What a model will take, as three separate figures: idle (loaded, nothing cached), resident (between requests, caches
//! at their bounds) and peak (inside a prefill at the context limit).

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
pub(crate) enum ModelFiles {
    Read(Box<Files>),
    /// Not downloaded; the size is the registry's.
    Declared(Bytes),
    /// Not downloaded, and the registry has no size.
    Unknown,
}

/// What a model folder contains, as far as memory is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    /// From mlx_lm's profile, else from `config.json` by rules of thumb.
    pub shape: Shape,
    /// As served: from mlx_lm's profile, else from all safetensors headers.
    pub weights: Header,
    /// Bytes of the tensors that belong to no layer.
    pub outside: Bytes,
    pub shards: usize,
    /// What an adapter adds to the weights.
    pub adapter: Header,
    /// What each rank of the model's cluster keeps, by mlx_lm; empty: no cluster, or mlx_lm was not asked.
    pub shares: Vec<Share>,
}

const ALWAYS: &[Figure] = &[Figure::Idle, Figure::Resident, Figure::Peak];
const WORKED: &[Figure] = &[Figure::Resident, Figure::Peak];
const PEAK: &[Figure] = &[Figure::Peak];

#[derive(Default)]
struct Terms(Vec<Term>);

impl Terms {
    fn add(
        &mut self,
        name: &str,
        bytes: Bytes,
        figures: &[Figure],
        origin: Origin,
        detail: impl fmt::Display,
    ) {
        let (name, figures, detail) = (name.to_owned(), figures.to_vec(), detail.to_string());
        self.0.push(Term { name, bytes, figures, origin, detail, before: None });
    }

    fn weights(&mut self, name: &str, files: &Files) {
        let detail =
            format!("{} in {}", counted(files.weights.tensors, "tensor"), counted(files.shards, "file"));
        self.add(name, files.weights.bytes, ALWAYS, Origin::File, detail);
    }

    /// Adds what is in memory as soon as the model is loaded.
    fn loaded(&mut self, files: &Files, platform: Platform) {
        let runtime = format!("Python and MLX on {}", platform.name());
        self.add(RUNTIME, platform.runtime(), ALWAYS, Origin::Fitted, runtime);
        let tokenizer = Bytes(files.shape.vocab.saturating_mul(platform.word()));
        if tokenizer > Bytes::ZERO {
            let of = format!("{} words", files.shape.vocab);
            self.add("tokenizer", tokenizer, ALWAYS, Origin::Fitted, of);
        }
    }

    /// Adds what requests take, and what they leave behind.
    fn served(&mut self, files: &Files, draft: Option<&Files>, bounds: &Bounds, platform: Platform) {
        let context = u64::from(bounds.context);
        let sequence = kv(files, draft, bounds, context);
        let in_flight = Bytes(sequence.0.saturating_mul(u64::from(bounds.concurrency)));
        // No more sequences are kept than the count allows, however small they are.
        let kept = bounds.kv_limit.min(Bytes(sequence.0.saturating_mul(u64::from(bounds.prompt_caches))));
        let most = format!("at most {} sequences and {}", bounds.prompt_caches, bounds.kv_limit);
        self.add(PROMPT_CACHE, kept, WORKED, Origin::Flag, most);
        // The launcher drops a batch once its caches are kept, so nothing is in flight between requests.
        let each = files.shape.per_token(bounds.kv_quantized);
        let all = format!("{} × {context} tokens, {each} a token", bounds.concurrency);
        self.add("sequences in flight", in_flight, PEAK, Origin::Config, all);
        let prefill = prefill(files, bounds, platform);
        // mlx_lm clears this cache after every prefill step, so between requests it holds what was freed since: evicted
        // caches and those of the last batch. On a CPU (measured, 0.3 to 1.4 MB) they are counted above already; on a
        // card the allocator was seen to keep as much again. During a prefill its content is part of the working set.
        if platform != Platform::Cpu {
            let cached = bounds.cache_limit.min(in_flight + in_flight);
            let limit = format!("limited to {}", bounds.cache_limit);
            self.add("MLX buffer cache", cached, WORKED, Origin::Flag, limit);
        }
        self.add(SLACK, platform.slack(), WORKED, Origin::Fitted, "kept by the allocator below MLX");
        // Kept prompts make room for a prefill (see `room`), so only the larger of the two counts.
        let shared = if bounds.shared { kept } else { Bytes::ZERO };
        let room = if shared > Bytes::ZERO { "; kept prompts make room for it" } else { "" };
        let tokens = bounds.prefill_step.min(bounds.context);
        let steps = format!("{prefill} for {tokens} tokens at once, at the end of {context}{room}");
        self.add(WORKING, prefill.saturating_sub(shared), PEAK, Origin::Fitted, steps);
    }
}

/// Adds up what a model takes under `bounds`. `None`: not even a declared size is known, and a start is refused unless
/// forced.
pub(crate) fn estimate(
    files: &ModelFiles,
    draft: Option<&ModelFiles>,
    bounds: &Bounds,
    platform: Platform,
    learned: Option<&Learned>,
) -> Option<Estimate> {
    let mut terms = Terms::default();
    let files = match files {
        ModelFiles::Read(files) => files,
        ModelFiles::Declared(size) => {
            let why = "`size` in the registry; not downloaded";
            terms.add("declared size", *size, ALWAYS, Origin::Declared, why);
            return Some(Estimate::of(terms.0, bounds.ceiling));
        }
        ModelFiles::Unknown => return None,
    };
    terms.weights("weights", files);
    if files.adapter.tensors > 0 {
        let detail = format!("{} tensors", files.adapter.tensors);
        terms.add("adapter", files.adapter.bytes, ALWAYS, Origin::File, detail);
    }
    match draft {
        Some(ModelFiles::Read(draft)) => terms.weights("draft weights", draft),
        Some(ModelFiles::Declared(size)) => {
            terms.add("draft weights", *size, ALWAYS, Origin::Declared, "not downloaded");
        }
        Some(ModelFiles::Unknown) => return None,
        None => {}
    }
    terms.loaded(files, platform);
    terms.served(files, read(draft), bounds, platform);
    let estimate = Estimate::of(terms.0, bounds.ceiling);
    Some(match learned {
        Some(learned) => learned.correct(estimate),
        None => estimate,
    })
}

fn read(files: Option<&ModelFiles>) -> Option<&Files> {
    match files {
        Some(ModelFiles::Read(files)) => Some(files),
        _ => None,
    }
}

/// Bytes of the caches of one sequence of `tokens` tokens, the draft model's included.
pub(super) fn sequence(files: &Files, draft: Option<&ModelFiles>, bounds: &Bounds, tokens: u32) -> Bytes {
    kv(files, read(draft), bounds, u64::from(tokens))
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

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
