//! What each rank of a cluster holds: by mlx_lm (the [profile](super::profile)), else by rules of thumb. That mlx_lm
//! cannot divide a family at all only shows when mlx_lm is asked.

use super::cache::{Kind, Law};
use super::estimate::Files;
use super::problem::Problem;
use super::shape::Shape;
use crate::registry::ClusterMode;
use crate::units::Bytes;

/// The files as each rank sees them, rank 0 first, to be estimated like those of a single machine.
///
/// # Errors
/// [`Problem::Cluster`]: mlx_lm cannot divide this model this way.
pub fn split(files: &Files, mode: ClusterMode, ranks: usize) -> Result<Vec<Files>, Problem> {
    if files.shares.len() == ranks {
        return Ok((0..ranks).map(|rank| known(files, mode, rank)).collect());
    }
    divides(&files.shape, mode, ranks)?;
    let count = ranks as u64;
    // Every rank counts like the first, which has the most.
    Ok(vec![thumb(files, mode, count.max(1)); ranks])
}

/// Checks that a model of this shape can be divided over `ranks`, as far as its dimensions tell.
///
/// # Errors
/// [`Problem::Cluster`]: layers or heads do not divide evenly.
pub(crate) fn divides(shape: &Shape, mode: ClusterMode, ranks: usize) -> Result<(), Problem> {
    let uneven = |what: &str, n: u64| {
        Err(Problem::Cluster { why: format!("{n} {what} cannot be divided over {ranks} ranks") })
    };
    let (layers, ranks) = (shape.layers.get(), ranks as u64);
    match mode {
        ClusterMode::Pipeline if layers < ranks => uneven("layers", layers),
        ClusterMode::Pipeline => Ok(()),
        ClusterMode::Tensor if !shape.heads.is_multiple_of(ranks) => uneven("attention heads", shape.heads),
        ClusterMode::Tensor => {
            let shared =
                shape.caches.iter().filter(|cache| matches!(cache.kind, Kind::Full | Kind::Rotating));
            let mut heads = shared.flat_map(|cache| &cache.slots).map(|slot| slot.heads);
            // This family repeats KV heads where there are fewer of them than ranks.
            let repeats = shape.family.starts_with("qwen3_5");
            let even = |heads: u64| {
                heads.is_multiple_of(ranks) || (repeats && heads > 0 && ranks.is_multiple_of(heads))
            };
            match heads.find(|heads| !even(*heads)) {
                Some(heads) => uneven("KV heads", heads),
                None => Ok(()),
            }
        }
    }
}

/// The share of `rank` according to mlx_lm.
fn known(files: &Files, mode: ClusterMode, rank: usize) -> Files {
    let mut share = files.clone();
    share.shares = Vec::new();
    if let Some(found) = files.shares.get(rank) {
        share.weights = found.weights.over(files.weights);
        share.shape.caches.clone_from(&found.caches);
        share.shape.layers = found.layers;
    }
    if mode == ClusterMode::Tensor {
        narrow(&mut share.shape, files.shares.len() as u64);
    }
    share
}

/// Reduces query heads and MLP width to those of one rank.
fn narrow(shape: &mut Shape, ranks: u64) {
    shape.heads = shape.heads.div_ceil(ranks);
    shape.intermediate = shape.intermediate.div_ceil(ranks);
}

/// The share of one rank by rules of thumb: the layers are divided, embeddings and head are on every rank.
fn thumb(files: &Files, mode: ClusterMode, ranks: u64) -> Files {
    let mut share = files.clone();
    let (layers, outside) = (files.shape.layers, files.outside.min(files.weights.bytes));
    let inside = files.weights.bytes.saturating_sub(outside).0;
    match mode {
        ClusterMode::Tensor => {
            share.weights.bytes = outside + Bytes(inside.div_ceil(ranks));
            narrow(&mut share.shape, ranks);
            let slots = share.shape.caches.iter_mut().flat_map(|cache| &mut cache.slots);
            for slot in slots.filter(|slot| slot.law != Law::Fixed && slot.heads > 1) {
                let heads = slot.heads.div_ceil(ranks);
                slot.bytes = slot.bytes / slot.heads * heads;
                slot.heads = heads;
            }
        }
        ClusterMode::Pipeline => {
            let most = layers.get().div_ceil(ranks);
            share.weights.bytes = outside + Bytes(inside.div_ceil(layers.get()).saturating_mul(most));
            share.shape.layers = most.try_into().unwrap_or(layers);
            for cache in &mut share.shape.caches {
                // All layers of one kind may be on the same rank.
                cache.count = cache.count.min(most.saturating_mul(cache.count.div_ceil(layers.get())));
            }
        }
    }
    share
}
