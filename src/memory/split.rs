//! What each rank of a cluster holds, as mlx_lm 0.32 divides a model: `Model.shard` for tensor mode,
//! `PipelineMixin.pipeline` for pipeline mode. Checked against both by `tests/it/split.rs`.

use super::estimate::Files;
use super::problem::Problem;
use super::shape::{Cache, Kv, Shape};
use super::weights::{Header, Named};
use crate::registry::ClusterMode;
use crate::units::Bytes;

/// Families that have `shard`, after `MODEL_REMAPPING` of `mlx_lm/utils.py`.
const TENSOR: [&str; 23] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "kimi_k2",
    "joyai_llm_flash",
    "glm_moe_dsa",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt_oss",
    "longcat_flash",
    "ministral3",
    "mistral3",
    "mistral4",
    "iquestcoder",
];
/// Families that have `pipeline`.
const PIPELINE: [&str; 14] = [
    "qwen2",
    "qwen3_moe",
    "qwen3_next",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "kimi_k2",
    "joyai_llm_flash",
    "glm_moe_dsa",
    "glm4_moe",
    "glm4_moe_lite",
    "ministral3",
    "mistral3",
    "mistral4",
];

/// How one tensor is divided over the ranks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Every rank has all of it.
    Whole,
    /// Along this axis.
    Axis(usize),
}

/// The files as each rank has them, rank 0 first. What one rank takes follows from them as for one machine.
///
/// # Errors
/// [`Problem::Cluster`]: mlx_lm cannot divide this model so.
pub fn split(files: &Files, mode: ClusterMode, ranks: usize) -> Result<Vec<Files>, Problem> {
    divides(&files.shape, mode, ranks)?;
    match mode {
        ClusterMode::Tensor => {
            let share = tensor_share(files, ranks as u64)?;
            Ok(vec![share; ranks])
        }
        ClusterMode::Pipeline => Ok(pipeline_shares(files, ranks as u64)),
    }
}

/// Whether a model of this shape can be divided so, as far as its `config.json` tells.
///
/// # Errors
/// [`Problem::Cluster`]: mlx_lm cannot.
pub fn divides(shape: &Shape, mode: ClusterMode, ranks: usize) -> Result<(), Problem> {
    let family = shape.family.as_str();
    let able: &[&str] = match mode {
        ClusterMode::Tensor => &TENSOR,
        ClusterMode::Pipeline => &PIPELINE,
    };
    // A family that is new here may be able to: the server says so itself.
    if shape.known && !able.contains(&family) {
        let other = if mode == ClusterMode::Tensor { &PIPELINE[..] } else { &TENSOR[..] };
        let instead = if other.contains(&family) { "; it can in the other mode" } else { "" };
        return Err(problem(format!("mlx_lm has no {} mode for `{family}`{instead}", mode.name())));
    }
    let (layers, ranks) = (shape.layers, ranks as u64);
    match mode {
        ClusterMode::Tensor => tensor_shape(shape, ranks).map(drop),
        ClusterMode::Pipeline if layers < ranks => {
            Err(problem(format!("{layers} layers cannot be divided over {ranks} ranks")))
        }
        ClusterMode::Pipeline => Ok(()),
    }
}

fn problem(why: String) -> Problem {
    Problem::Cluster { why }
}

/// Qwen 3.5 divides more than the others do.
fn is_gated(shape: &Shape) -> bool {
    shape.family.starts_with("qwen3_5")
}

/// The shape that every rank sees.
fn tensor_shape(shape: &Shape, ranks: u64) -> Result<Shape, Problem> {
    let gated = is_gated(shape);
    let mut shape = shape.clone();
    let even = |what: &str, n: u64| {
        if n.is_multiple_of(ranks) {
            Ok(n / ranks)
        } else {
            Err(problem(format!("{n} {what} cannot be divided over {ranks} ranks")))
        }
    };
    // The gated families repeat KV heads where there are fewer than ranks.
    let kv_heads = |kv: Kv| match kv.heads {
        heads if gated && heads < ranks && ranks.is_multiple_of(heads) => Ok(Kv { heads: 1, ..kv }),
        heads => even("KV heads", heads).map(|heads| Kv { heads, ..kv }),
    };
    shape.caches = shape
        .caches
        .into_iter()
        .map(|cache| {
            Ok(match cache {
                Cache::Full(kv) => Cache::Full(kv_heads(kv)?),
                Cache::Rotating(kv, window) => Cache::Rotating(kv_heads(kv)?, window),
                // One latent serves all heads, so every rank keeps it.
                Cache::Latent(kv) => Cache::Latent(kv),
                Cache::State { narrow, wide } if gated => {
                    Cache::State { narrow: narrow.div_ceil(ranks), wide: wide.div_ceil(ranks) }
                }
                whole @ (Cache::State { .. } | Cache::Array { .. }) => whole,
            })
        })
        .collect::<Result<_, Problem>>()?;
    shape.heads = even("attention heads", shape.heads)?;
    shape.intermediate = shape.intermediate.div_ceil(ranks);
    Ok(shape)
}

/// All ranks hold the same amount.
fn tensor_share(files: &Files, ranks: u64) -> Result<Files, Problem> {
    let gated = is_gated(&files.shape);
    let shape = tensor_shape(&files.shape, ranks)?;
    let heads = files.shape.caches.iter().find_map(|cache| match cache {
        Cache::Full(kv) => Some(kv.heads),
        _ => None,
    });
    let mut bytes = Bytes::ZERO;
    for tensor in &files.tensors {
        let times = match (gated, heads) {
            (true, Some(heads)) if is_kv(&tensor.name) => heads.min(ranks),
            _ => ranks,
        };
        bytes += match cut(tensor, gated) {
            Cut::Whole => Bytes(tensor.bytes),
            Cut::Axis(axis) => match tensor.shape.get(axis) {
                Some(length) if length.is_multiple_of(times) => Bytes(tensor.bytes / times),
                _ => {
                    let why = format!(
                        "`{}` of {:?} cannot be divided over {ranks} ranks",
                        tensor.name, tensor.shape
                    );
                    return Err(problem(why));
                }
            },
        };
    }
    let weights = Header { bytes, ..files.weights };
    Ok(Files { shape, weights, tensors: Vec::new(), shards: files.shards })
}

/// The layer that a tensor belongs to, and what follows its number.
fn layer(name: &str) -> Option<(u64, &str)> {
    let rest = name.strip_prefix("layers.").or_else(|| name.split_once(".layers.").map(|(_, rest)| rest))?;
    let (number, rest) = rest.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn is_kv(name: &str) -> bool {
    layer(name)
        .is_some_and(|(_, rest)| rest.starts_with("self_attn.k_proj") || rest.starts_with("self_attn.v_proj"))
}

/// By the names that `shard` gives to `shard_linear` and `shard_inplace`. What it leaves alone is whole on every rank:
/// norms, embeddings, routers, and in most families the head.
fn cut(tensor: &Named, gated: bool) -> Cut {
    let last = tensor.shape.len().saturating_sub(1);
    let rows = Cut::Axis(tensor.shape.len().saturating_sub(2));
    let Some((_, rest)) = layer(&tensor.name) else {
        return if gated && tensor.name.contains("lm_head.") { rows } else { Cut::Whole };
    };
    let mut path = rest.rsplit('.');
    let (parameter, module) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
    let linear = gated && rest.starts_with("linear_attn.");
    match (module, parameter) {
        ("q_proj" | "k_proj" | "v_proj" | "q_b_proj" | "gate_proj" | "up_proj", "bias") => Cut::Axis(last),
        ("q_proj" | "k_proj" | "v_proj" | "q_b_proj" | "gate_proj" | "up_proj", _) => rows,
        ("o_proj" | "down_proj", "bias") => Cut::Whole,
        ("o_proj" | "down_proj", _) => Cut::Axis(last),
        ("embed_q" | "unembed_out" | "kv_b_proj", _) => Cut::Axis(0),
        ("in_proj_qkv" | "in_proj_z" | "in_proj_a" | "in_proj_b", _) if linear => rows,
        ("conv1d", _) | (_, "dt_bias" | "A_log") if linear => Cut::Axis(0),
        ("out_proj", _) if linear => Cut::Axis(last),
        _ => Cut::Whole,
    }
}

/// The last layers go to rank 0; the low ranks have one more where it does not come out even. Everything outside the
/// layers is on every rank.
fn pipeline_shares(files: &Files, ranks: u64) -> Vec<Files> {
    let layers = files.shape.layers;
    let mut end = layers;
    let share = |rank: u64| {
        let count = layers / ranks + u64::from(rank < layers % ranks);
        let start = end - count;
        let mine = start..end;
        end = start;
        let mut shape = files.shape.clone();
        shape.layers = count;
        // Some families have several caches a layer.
        let each = shape.caches.len() as u64 / layers;
        if each * layers == shape.caches.len() as u64 {
            let place = |layer: u64| usize::try_from(layer * each).unwrap_or(usize::MAX);
            shape.caches =
                shape.caches.get(place(start)..place(mine.end)).map(<[Cache]>::to_vec).unwrap_or_default();
        }
        let held = files.tensors.iter().filter(|tensor| match layer(&tensor.name) {
            Some((number, _)) => mine.contains(&number),
            None => true,
        });
        let (mut bytes, mut tensors) = (Bytes::ZERO, 0);
        for tensor in held {
            bytes += Bytes(tensor.bytes);
            tensors += 1;
        }
        let weights = Header { bytes, tensors, ..files.weights };
        Files { shape, weights, tensors: Vec::new(), shards: files.shards }
    };
    (0..ranks).map(share).collect()
}
