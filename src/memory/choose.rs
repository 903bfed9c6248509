//! Chooses a model's bounds from its `memory` keys, so that the ceiling holds.

use super::bounds::Bounds;
use super::estimate::{ModelFiles, estimate, prefill, sequence};
use super::figures::{Estimate, PROMPT_CACHE};
use super::platform::Platform;
use super::problem::Problem;
use crate::registry::{self, Model};
use crate::units::Bytes;

/// Default for caches kept between requests, raised to one whole context if that is more, so that the next turn of a
/// conversation does not repeat the whole prefill.
pub(super) const KV_LIMIT: Bytes = Bytes::gb(4);
/// Default limit of MLX's buffer cache. Without a limit it keeps whatever was ever in use.
pub(super) const CACHE_LIMIT: Bytes = Bytes::gb(1);
/// Default prompt tokens per step that memory is reserved for; the server's own default of 2048 needs four times the
/// temporaries.
pub(super) const PREFILL_STEP: u32 = 512;
/// Default prompt tokens per step where there is room for more: the server's own default. Steps of 512 made the first
/// turn of a 16,000-token conversation 38 % slower on an H100.
pub(super) const PREFILL_MOST: u32 = 2048;
/// Kept sequences, the server's own default.
pub(super) const PROMPT_CACHES: u32 = 10;
/// Smaller steps make a prefill slow and save hardly any memory.
const SMALLEST_STEP: u32 = 128;
/// Smallest context that is chosen, tokens; chosen contexts are multiples of it.
const SMALLEST_CONTEXT: u32 = 1024;

/// The bounds of `model` on `platform`.
///
/// Fills in what the registry leaves open: kept caches hold at least one whole context. Under a ceiling these values
/// shrink until the peak fits: first the kept caches, then the buffer cache, the prefill step, and last the context.
///
/// # Errors
/// The ceiling is below the idle figure or cannot hold one request of the registry's context, or `kv_bits` is set for
/// a family whose caches mlx_lm cannot quantise.
pub(crate) fn bounds(
    model: &Model,
    files: &ModelFiles,
    draft: Option<&ModelFiles>,
    platform: Platform,
) -> Result<Bounds, Problem> {
    let start = unbounded(model, files, draft)?;
    let Some(ceiling) = model.memory.ceiling else { return Ok(start) };
    let sum = |bounds: &Bounds| estimate(files, draft, bounds, platform, None);
    let Some(full) = sum(&start) else { return Ok(start) };
    if full.idle > ceiling {
        return Err(Problem::CeilingBelowIdle { name: model.name.clone(), ceiling, idle: full.idle });
    }
    let fits = |bounds: &Bounds| sum(bounds).is_some_and(|estimate: Estimate| estimate.peak <= ceiling);
    let mut chosen = start;
    if fits(&chosen) {
        return Ok(chosen);
    }
    let free_kv = model.memory.kv_limit.is_none();
    if free_kv {
        let over = full.peak.saturating_sub(ceiling);
        chosen.kv_limit = chosen.kv_limit.min(kept(&full)).saturating_sub(over);
        if fits(&chosen) {
            return Ok(chosen);
        }
    }
    // A prefill needs its working set in any case, so caches kept in that room cost nothing.
    let what_is_free = |bounds: &Bounds| match files {
        ModelFiles::Read(files) if free_kv => {
            let working = if bounds.shared { prefill(files, bounds, platform) } else { Bytes::ZERO };
            Bounds { kv_limit: start.kv_limit.min(working), ..*bounds }
        }
        _ => *bounds,
    };
    chosen = what_is_free(&chosen);
    if model.memory.cache_limit.is_none() {
        chosen.cache_limit = Bytes(256 << 20).min(chosen.cache_limit);
    }
    if model.server.prefill_step_size.is_none() {
        while !fits(&chosen) && chosen.prefill_step > SMALLEST_STEP {
            chosen.prefill_step /= 2;
            chosen = what_is_free(&chosen);
        }
    }
    if fits(&chosen) {
        return Ok(chosen);
    }
    let longest = longest_context(chosen, |bounds| fits(&what_is_free(bounds)));
    if let (None, Some(context)) = (model.memory.context, longest) {
        return Ok(what_is_free(&Bounds { context, ..chosen }));
    }
    Err(Problem::CeilingBelowPeak {
        name: model.name.clone(),
        ceiling,
        context: chosen.context,
        peak: sum(&chosen).map_or(full.peak, |estimate| estimate.peak),
        fits: longest.unwrap_or(0),
    })
}

/// The bounds by registry and defaults, without regard to the ceiling.
fn unbounded(model: &Model, files: &ModelFiles, draft: Option<&ModelFiles>) -> Result<Bounds, Problem> {
    let (memory, server) = (&model.memory, &model.server);
    let shape = match files {
        ModelFiles::Read(files) => Some(&files.shape),
        ModelFiles::Declared(_) | ModelFiles::Unknown => None,
    };
    if let (Some(_), Some(shape)) = (server.kv_bits, shape)
        && let Some(cache) = shape.unquantizable()
    {
        return Err(Problem::KvBits { family: shape.family.clone(), cache });
    }
    let own = shape.and_then(|shape| shape.context).unwrap_or(u32::MAX);
    let concurrency = memory.concurrency.max(1);
    let batched =
        server.draft_model.is_none() && server.kv_bits.is_none() && shape.is_none_or(|shape| shape.batches);
    // Without batching, requests are served one after the other.
    let concurrency = if batched { concurrency } else { 1 };
    let decode = server.decode_concurrency.unwrap_or(concurrency).clamp(1, concurrency);
    let prefill_step = server.prefill_step_size.unwrap_or(PREFILL_STEP).max(1);
    let bounds = Bounds {
        context: memory.context.unwrap_or(registry::CONTEXT.min(own)),
        concurrency: decode,
        prompt_concurrency: server.prompt_concurrency.unwrap_or(decode).clamp(1, decode),
        batched,
        prefill_step,
        // A step set by the owner is never exceeded.
        prefill_most: if server.prefill_step_size.is_some() { prefill_step } else { PREFILL_MOST },
        shared: model.cluster.is_none(),
        kv_limit: memory.kv_limit.unwrap_or(KV_LIMIT),
        prompt_caches: server.prompt_cache.unwrap_or(PROMPT_CACHES),
        cache_limit: memory.cache_limit.unwrap_or(CACHE_LIMIT),
        kv_quantized: server.kv_bits.map(|bits| {
            let group = u64::from(server.kv_group_size.unwrap_or(64));
            // 5000 is DEFAULT_QUANTIZED_KV_START of mlx_lm/generate.py.
            (u64::from(bits), group, u64::from(server.quantized_kv_start.unwrap_or(5000)))
        }),
        ceiling: memory.ceiling,
    };
    let whole = match files {
        ModelFiles::Read(files) if memory.kv_limit.is_none() => {
            sequence(files, draft, &bounds, bounds.context)
        }
        _ => Bytes::ZERO,
    };
    Ok(Bounds { kv_limit: bounds.kv_limit.max(whole), ..bounds })
}

fn kept(estimate: &Estimate) -> Bytes {
    estimate.terms.iter().find(|term| term.name == PROMPT_CACHE).map_or(Bytes::ZERO, |term| term.bytes)
}

/// The longest context that `fits`, a multiple of [`SMALLEST_CONTEXT`] up to `bounds.context`.
fn longest_context(bounds: Bounds, fits: impl Fn(&Bounds) -> bool) -> Option<u32> {
    let at = |steps: u32| Bounds { context: steps.saturating_mul(SMALLEST_CONTEXT), ..bounds };
    let (mut low, mut high) = (0, bounds.context / SMALLEST_CONTEXT + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(&at(middle)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low > 0).then(|| low * SMALLEST_CONTEXT)
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
