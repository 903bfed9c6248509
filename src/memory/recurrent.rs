//! Families with layers that keep a state of fixed size: Mamba, gated delta nets, short convolutions, RWKV.

use super::problem::Problem;
use super::shape::{Cache, Config, Kv};

/// The caches of such a family; `attention` gives the dimensions of its attention layers, where it has any.
pub(super) fn caches(
    family: &str,
    text: Config<'_>,
    attention: impl Fn() -> Result<Kv, Problem>,
) -> Result<Vec<Cache>, Problem> {
    match family {
        "gated_delta" => {
            let (layers, full) = (text.layers()?, Cache::Full(attention()?));
            let every = text.maybe(&["full_attention_interval"])?.unwrap_or(4);
            let state = gated_delta(text)?;
            Ok((0..layers).map(|n| if (n + 1) % every == 0 { full } else { state }).collect())
        }
        "mamba" => {
            let state = mamba1(
                text.need(&["intermediate_size", "d_inner"])?,
                text.need(&["state_size", "d_state"])?,
                text.need(&["conv_kernel", "d_conv"])?,
            );
            Ok((0..text.layers()?).map(|_| state).collect())
        }
        "jamba" => {
            let (layers, full) = (text.layers()?, Cache::Full(attention()?));
            let inner =
                text.maybe(&["mamba_expand"])?.unwrap_or(2).saturating_mul(text.need(&["hidden_size"])?);
            let state = mamba1(inner, text.need(&["mamba_d_state"])?, text.need(&["mamba_d_conv"])?);
            let types = text.words("layers_block_type", layers)?;
            let (offset, period) = (text.get("attn_layer_offset"), text.maybe(&["attn_layer_period"])?);
            let offset = offset.and_then(serde_json::Value::as_u64).unwrap_or(0);
            let is_attention = |n: u64| match &types {
                Some(types) => usize::try_from(n).ok().and_then(|n| types.get(n)) == Some(&"attention"),
                None => period.is_some_and(|period| n % period == offset),
            };
            Ok((0..layers).map(|n| if is_attention(n) { full } else { state }).collect())
        }
        "mamba2" => {
            let state = mamba2(
                text.need(&["num_heads"])?.saturating_mul(text.need(&["head_dim"])?),
                text.need(&["ssm_state_size", "state_size"])?,
                text.need(&["n_groups"])?,
                text.need(&["conv_kernel"])?,
            );
            Ok((0..text.layers()?).map(|_| state).collect())
        }
        "granitemoehybrid" => {
            let (layers, full) = (text.layers()?, Cache::Full(attention()?));
            let types = text.words("layer_types", layers)?.unwrap_or_default();
            if !types.contains(&"mamba") {
                return Ok((0..layers).map(|_| full).collect());
            }
            let state = mamba2(
                text.need(&["mamba_n_heads"])?.saturating_mul(text.need(&["mamba_d_head"])?),
                text.need(&["mamba_d_state"])?,
                text.need(&["mamba_n_groups"])?,
                text.need(&["mamba_d_conv"])?,
            );
            Ok(types.iter().map(|kind| if *kind == "mamba" { state } else { full }).collect())
        }
        "falcon_h1" => {
            let full = Cache::Full(attention()?);
            let inner = match text.maybe(&["mamba_d_ssm"])? {
                Some(inner) => inner,
                None => {
                    text.maybe(&["mamba_expand"])?.unwrap_or(2).saturating_mul(text.need(&["hidden_size"])?)
                }
            };
            let state = mamba2(
                inner,
                text.need(&["mamba_d_state"])?,
                text.maybe(&["mamba_n_groups"])?.unwrap_or(1),
                text.need(&["mamba_d_conv"])?,
            );
            Ok((0..text.layers()?).flat_map(|_| [state, full]).collect())
        }
        "nemotron_h" => nemotron_h(text, Cache::Full(attention()?)),
        "lfm2" => {
            let (layers, full) = (text.layers()?, Cache::Full(attention()?));
            let narrow =
                text.need(&["conv_L_cache"])?.saturating_sub(1).saturating_mul(text.need(&["hidden_size"])?);
            let state = Cache::State { narrow, wide: 0 };
            let types = text.words("layer_types", layers)?;
            let indexes = text.numbers("full_attn_idxs")?.unwrap_or_default();
            let is_attention = |n: u64| match &types {
                Some(types) if indexes.is_empty() => {
                    usize::try_from(n).ok().and_then(|n| types.get(n)) == Some(&"full_attention")
                }
                _ => indexes.contains(&n),
            };
            Ok((0..layers).map(|n| if is_attention(n) { full } else { state }).collect())
        }
        _ => {
            // RWKV 7: the last token's activations for both mixes, and a matrix a head.
            let (hidden, head) = (text.need(&["hidden_size"])?, text.need(&["head_dim"])?);
            let state = Cache::State { narrow: hidden.saturating_mul(2), wide: hidden.saturating_mul(head) };
            Ok((0..text.layers()?).map(|_| state).collect())
        }
    }
}

/// `mlx_lm/models/qwen3_next.py`, `gated_delta.py`: the last inputs of the convolution, and a float32 matrix a head.
fn gated_delta(text: Config<'_>) -> Result<Cache, Problem> {
    let (key_heads, value_heads) =
        (text.need(&["linear_num_key_heads"])?, text.need(&["linear_num_value_heads"])?);
    let (key, value) = (text.need(&["linear_key_head_dim"])?, text.need(&["linear_value_head_dim"])?);
    let kernel = text.maybe(&["linear_conv_kernel_dim"])?.unwrap_or(4);
    let values = value_heads.saturating_mul(value);
    let convolved = key_heads.saturating_mul(key).saturating_mul(2).saturating_add(values);
    Ok(Cache::State { narrow: (kernel - 1).saturating_mul(convolved), wide: values.saturating_mul(key) })
}

/// `mlx_lm/models/mamba.py`, `jamba.py`.
fn mamba1(inner: u64, state: u64, kernel: u64) -> Cache {
    let narrow = (kernel - 1).saturating_add(state).saturating_mul(inner);
    Cache::State { narrow, wide: 0 }
}

/// `mlx_lm/models/mamba2.py`, `ssm.py`.
fn mamba2(inner: u64, state: u64, groups: u64, kernel: u64) -> Cache {
    let convolved = groups.saturating_mul(state).saturating_mul(2).saturating_add(inner);
    Cache::State { narrow: (kernel - 1).saturating_mul(convolved), wide: inner.saturating_mul(state) }
}

/// A letter a layer: M Mamba 2, * attention, - and E without a cache.
fn nemotron_h(text: Config<'_>, full: Cache) -> Result<Vec<Cache>, Problem> {
    let key = "hybrid_override_pattern";
    let letters: Vec<char> = match (text.text(key), text.get(key)) {
        (Some(word), _) => word.chars().collect(),
        (None, Some(serde_json::Value::Array(list))) => {
            list.iter().filter_map(serde_json::Value::as_str).flat_map(str::chars).collect()
        }
        _ => {
            let layers = text.layers()?;
            let types = text.words("layers_block_type", layers)?.or(text.words("layer_types", layers)?);
            let types = types.ok_or_else(|| text.problem(key, "it is missing"))?;
            types
                .iter()
                .map(|kind| match *kind {
                    "mamba" => 'M',
                    "attention" => '*',
                    _ => '-',
                })
                .collect()
        }
    };
    if letters.len() as u64 > super::shape::MOST_LAYERS {
        return Err(text.problem(key, format!("{} layers: no model has so many", letters.len())));
    }
    let state = mamba2(
        text.need(&["mamba_num_heads"])?.saturating_mul(text.need(&["mamba_head_dim"])?),
        text.need(&["ssm_state_size"])?,
        text.need(&["n_groups"])?,
        text.need(&["conv_kernel"])?,
    );
    Ok(letters
        .iter()
        .filter_map(|letter| match letter {
            'M' => Some(state),
            '*' => Some(full),
            _ => None,
        })
        .collect())
}
