//! What a prefill takes temporarily, in addition to weights and caches.
//!
//! MLX evaluates lazily and asynchronously: temporaries of a layer live until the command buffer that uses them has
//! run, and at most 11 buffers are in flight (`MAX_ACTIVE_TASKS` + 1 in mlx/transforms.cpp). So the peak is the
//! temporaries of one layer times the layers in flight.

use super::cache::Quantized;
use super::platform::Platform;
use super::shape::Shape;
use crate::units::Bytes;

/// Most command buffers in flight at once.
const BUFFERS: u64 = 11;
/// Operations in a decoder layer on Metal, roughly.
const OPERATIONS_A_LAYER: u64 = 22;
/// Nodes of a decoder layer in MLX's CUDA graphs, which hold copies and joins as well. Measured on an H200: 37 layers of a
/// 32B are in flight with steps of 256 and 512 tokens, of 11 buffers that end after 100 nodes.
const NODES_A_LAYER: u64 = 30;
/// Numbers that the temporaries of one CUDA buffer hold at most. It also ends after 1,000 Mi numbers of inputs
/// (`CommandEncoder::needs_commit` in mlx/backend/cuda/device.cpp). Measured on an H200 with steps of 512 to 2,048 tokens:
/// up to 478 million for the 32B, 459 million for the 72B.
const NUMBERS_A_BUFFER: u64 = 500_000_000;

/// Bytes of MLX's lazy graph per token and recurrent layer, before it is run. Measured on a CPU with a gated delta net,
/// steps of 332 and 512 tokens: 21 and 26 KB; this is the larger plus the variation of its peaks.
const GRAPH_A_TOKEN: u64 = 27_000;

/// One prefill step, of all sequences together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Prompt tokens processed, over all sequences.
    pub tokens: u64,
    /// Length of each sequence at the end of the step, tokens.
    pub context: u64,
    pub sequences: u64,
}

/// Bytes of temporaries of a prefill step. `weights` are the model's weight bytes.
///
/// Formula: (a + 2·s·c + k·v) · f, where
/// a = step tokens · activation size · (3 · MLP width + 10 · hidden): gate, up and their product, and about ten
/// arrays as wide as the residual stream;
/// s = step tokens · heads · attended tokens · activation size: attention scores, only where attention is not fused
/// (or the states of a recurrent layer, one per token, if they are larger and there is no kernel for them);
/// v = KV bytes of one layer, held k times by a GPU: the cache before it grew, and copies for the kernel;
/// f = layers in flight. Added to that: logits, and what sliding caches hold beyond their windows ([`Shape::sliding`]).
/// On CUDA (a + k·v) · f has an upper bound, because its buffers end after a number of inputs as well.
/// Fitted: CUDA to an H200 (32B and 72B shapes, steps of 256 to 2,048 tokens that end at 2,048 to 32,768: 5 to 51 % above
/// what was measured) with masks converted by `src/backend/card.py`, CPU to four small shapes. Metal: the same reasoning with
/// its own limits, not measured.
pub(super) fn prefill(
    shape: &Shape,
    weights: Bytes,
    step: Step,
    quantized: Option<Quantized>,
    platform: Platform,
) -> Bytes {
    let activation = shape.activation;
    let width = shape.intermediate.saturating_mul(3).saturating_add(shape.hidden.saturating_mul(10));
    let activations = Bytes(step.tokens.saturating_mul(activation).saturating_mul(width));
    let scores = if fused(shape, quantized, platform) {
        0
    } else {
        let attended = shape.attended(step.context, step.tokens);
        step.tokens.saturating_mul(shape.heads).saturating_mul(attended).saturating_mul(activation)
    };
    let times = |bytes: Bytes, n: u64| Bytes(bytes.0.saturating_mul(n));
    let kv = Bytes(shape.kv(step.context, quantized).0.saturating_mul(step.sequences) / shape.layers.get());
    // Without Metal's kernel a recurrent layer runs token by token and holds the float32 state of every token.
    let states =
        if platform == Platform::Metal { 0 } else { step.tokens.saturating_mul(shape.largest_state()) };
    let scores = scores.max(states);
    let own = step.tokens / step.sequences.max(1);
    let sliding = |tokens: u64, step: u64| shape.sliding(tokens, step);
    let windows = sliding(step.context, 1);
    let beyond = times(sliding(step.context, own).saturating_sub(windows), step.sequences);
    let logits = Bytes(step.sequences.saturating_mul(shape.vocab).saturating_mul(4));
    if platform == Platform::Cpu {
        // Operations run one after the other and free their memory at once: measured, one layer's scores and twice its
        // activations, plus the lazy graph of the layers that run token by token.
        // With sliding layers, MLX's buffer cache keeps what a step frees and cannot reuse: the previous windows, and
        // temporaries of both kinds of layers. Measured with 10 sliding layers of 12 and steps of 512 tokens: 39 MB in
        // the first step, 69 MB in the second, of which MLX counts 30 and 49 as active.
        let (before, kinds) = match windows {
            Bytes::ZERO => (Bytes::ZERO, 1),
            _ => (times(sliding(step.context.saturating_sub(own), own), step.sequences), 2),
        };
        // An eighth more for heap fragmentation.
        let temporaries = times(times(activations, 2) + Bytes(scores), kinds);
        let temporaries = temporaries + Bytes(temporaries.0 / 8);
        let graph = GRAPH_A_TOKEN.saturating_mul(step.tokens).saturating_mul(shape.recurrent_layers());
        return temporaries + Bytes(graph) + logits + beyond + before;
    }
    let in_flight = layers_in_flight(shape, weights, platform);
    let (copies, most) = match platform {
        Platform::Cuda => (1, Bytes(NUMBERS_A_BUFFER.saturating_mul(activation))),
        _ => (2, Bytes(u64::MAX)),
    };
    // Scores are large enough to fill a command buffer by themselves, three times per layer.
    let scores = times(Bytes(scores), in_flight.min(BUFFERS / 3 + 1));
    let layer = activations + times(kv, copies);
    times(layer, in_flight).min(times(layer.max(most), BUFFERS)) + scores + logits + beyond
}

/// Whether attention runs in one fused kernel, which never writes its scores to memory.
///
/// Metal: heads of 64 to 128 (mlx/backend/metal/scaled_dot_product_attention.cpp); CUDA: cuDNN up to 128 in 16 bits;
/// CPU: never; quantised caches: never (`quantized_scaled_dot_product_attention` of mlx_lm); MLA: never, since part of
/// its scores is computed beforehand.
fn fused(shape: &Shape, quantized: Option<Quantized>, platform: Platform) -> bool {
    let Some(width) = shape.query_width() else { return shape.attended(1, 1) == 0 };
    quantized.is_none()
        && match platform {
            Platform::Cpu => false,
            Platform::Metal => [64, 72, 80, 96, 128].contains(&width),
            Platform::Cuda => width > 0 && width <= 128 && width.is_multiple_of(8) && shape.activation == 2,
        }
}

/// Layers whose temporaries are alive at once. A command buffer ends after 100 nodes on a large card
/// (mlx/backend/cuda/device.cpp), and after 50 operations or 50 MiB of inputs on an M-series Max, where a single input
/// may be larger (mlx/backend/metal/device.cpp).
fn layers_in_flight(shape: &Shape, weights: Bytes, platform: Platform) -> u64 {
    let most = match platform {
        Platform::Cpu => 1,
        Platform::Cuda => (BUFFERS * 100).div_ceil(NODES_A_LAYER),
        Platform::Metal => {
            let layer = (weights.0 / shape.layers.get()).max(1);
            // Large matrices overshoot the limit, to about twice its value per buffer.
            (BUFFERS * 2 * (50 << 20) / layer).clamp(2, BUFFERS * 50 / OPERATIONS_A_LAYER)
        }
    };
    most.min(shape.layers.get())
}
