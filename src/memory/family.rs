//! Which caches each family of models has in mlx_lm 0.32: its `make_cache`, and the dimensions that its attention
//! writes into them. Checked against the caches that mlx_lm builds by `tests/it/kv_shapes.rs`.

use serde_json::Value;

use super::problem::Problem;
use super::shape::{Cache, Config, Kv, Shape};

/// From a whole `config.json`. Language models inside multimodal ones lie under `text_config`.
pub(super) fn shape(outer: &Value) -> Result<Shape, Problem> {
    let top = Config::new(outer, "");
    if !outer.is_object() {
        return Err(top.problem("(whole file)", "it is no JSON object"));
    }
    let text = match top.get("text_config") {
        Some(inner) if inner.is_object() => Config::new(inner, "text_config."),
        Some(_) => return Err(top.problem("text_config", "it is no object")),
        None => top,
    };
    let named = text.text("model_type").or_else(|| top.text("model_type"));
    let Some(named) = named else { return Err(top.problem("model_type", "it is missing")) };
    let (family, known) = canonical(named);
    let caches = caches(family, text)?;
    let declared =
        text.text("torch_dtype").or_else(|| text.text("dtype")).or_else(|| top.text("torch_dtype"));
    let quantization = top.get("quantization").or_else(|| top.get("quantization_config"));
    let hidden = text.need(&["hidden_size", "n_embd", "d_model"])?;
    Ok(Shape {
        family: named.to_owned(),
        layers: text.layers().unwrap_or(caches.len() as u64).max(1),
        hidden,
        heads: heads(family, text)?,
        intermediate: intermediate(text, hidden)?,
        vocab: text.maybe(&["vocab_size"])?.or(top.maybe(&["vocab_size"])?).unwrap_or(0),
        context: text
            .maybe(&["max_position_embeddings", "n_positions", "max_seq_len", "model_max_length"])?
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        declared_activation: declared.map(|name| if name.contains("32") { 4 } else { 2 }),
        weight_bits: quantization
            .and_then(|q| Config::new(q, "quantization.").maybe(&["bits"]).ok().flatten()),
        caches,
        known,
        quantizes: true,
    })
}

/// The family whose rules hold for a `model_type`, and whether those are known (as in `MODEL_REMAPPING` of
/// `mlx_lm/utils.py`). What is not known counts as full attention.
fn canonical(model_type: &str) -> (&'static str, bool) {
    let family = match model_type {
        "llama" | "mistral" | "iquestcoder" | "xverse" | "ministral3" | "mistral3" | "olmo3" | "mellum"
        | "afmoe" | "laguna" => "layer_types",
        "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" | "mixtral" | "phi3" | "phimoe" | "gemma"
        | "gemma2" | "cohere" | "glm4" | "glm4_moe" | "granite" | "starcoder2" | "stablelm" | "smollm3"
        | "olmo2" | "hunyuan_v1_dense" | "seed_oss" | "internlm3" | "qwen2_vl" | "qwen2_5_vl"
        | "qwen3_vl" | "qwen3_vl_moe" | "qwen3_vl_text" | "qwen2_vl_text" | "qwen2_5_vl_text"
        | "ernie4_5" | "minicpm" | "nemotron" | "bitnet" => "full",
        "gpt_oss" => "gpt_oss",
        "gemma3" | "gemma3_text" => "gemma3",
        "gemma3n" | "gemma3n_text" => "gemma3n",
        "gemma4" | "gemma4_text" | "gemma4_unified" => "gemma4",
        "cohere2" => "cohere2",
        "exaone4" => "exaone4",
        "llama4" | "llama4_text" => "llama4",
        "deepseek_v2" => "mla_expanded",
        "deepseek_v3" | "kimi_k2" | "joyai_llm_flash" | "glm4_moe_lite" | "mistral4" => "mla",
        "deepseek_v32" | "glm_moe_dsa" => "mla_indexed",
        "longcat_flash" => "mla_twice",
        "minicpm3" => "minicpm3",
        "qwen3_next" | "qwen3_5" | "qwen3_5_text" | "qwen3_5_moe" | "qwen3_5_moe_text" => "gated_delta",
        "mamba" | "falcon_mamba" => "mamba",
        "mamba2" => "mamba2",
        "falcon_h1" => "falcon_h1",
        "nemotron_h" => "nemotron_h",
        "granitemoehybrid" => "granitemoehybrid",
        "jamba" => "jamba",
        "lfm2" | "lfm2_moe" | "lfm2-vl" => "lfm2",
        "rwkv7" => "rwkv7",
        "gpt_bigcode" => "gpt_bigcode",
        _ => return ("full", false),
    };
    (family, true)
}

fn heads(family: &str, text: Config<'_>) -> Result<u64, Problem> {
    match family {
        "mamba" | "mamba2" | "rwkv7" => Ok(text.maybe(&["num_heads"])?.unwrap_or(1)),
        "gemma3" => Ok(text.maybe(&["num_attention_heads"])?.unwrap_or(if nested(text) { 8 } else { 4 })),
        _ => text.need(&["num_attention_heads", "n_head", "n_heads"]),
    }
}

/// Whether a gemma3 lies in a multimodal one, which changes its defaults (`mlx_lm/models/gemma3.py`).
fn nested(text: Config<'_>) -> bool {
    text.problem("", "").to_string().contains("text_config")
}

fn intermediate(text: Config<'_>, hidden: u64) -> Result<u64, Problem> {
    // gemma3n names a width a layer.
    let dense = match text.get("intermediate_size") {
        Some(Value::Array(_)) => text.numbers("intermediate_size")?.and_then(|list| list.into_iter().max()),
        _ => text.maybe(&["intermediate_size", "ffn_dim", "n_inner", "d_ff"])?,
    };
    let expert = text.unless_zero(&["moe_intermediate_size"])?;
    let active = text.unless_zero(&["num_experts_per_tok", "moe_topk"])?.unwrap_or(1);
    let routed = expert.map(|width| width.saturating_mul(active));
    Ok(dense.into_iter().chain(routed).max().unwrap_or(hidden.saturating_mul(4)))
}

/// Keys and values of ordinary attention.
fn attention(family: &str, text: Config<'_>) -> Result<Kv, Problem> {
    let heads = heads(family, text)?;
    let default = if family == "gemma3" { if nested(text) { 4 } else { 1 } } else { heads };
    let kv = text.maybe(&["num_key_value_heads", "num_kv_heads", "n_kv_heads"])?.unwrap_or(default);
    let head = match text.unless_zero(&["head_dim"])? {
        Some(head) => head,
        None if family == "gemma3" => 256,
        None => {
            let hidden = text.need(&["hidden_size", "n_embd", "d_model"])?;
            if hidden < heads {
                return Err(
                    text.problem("num_attention_heads", format!("{heads} heads in a width of {hidden}"))
                );
            }
            hidden / heads
        }
    };
    Ok(Kv { heads: kv, key: head, value: head })
}

fn window(text: Config<'_>) -> Result<Option<u64>, Problem> {
    text.unless_zero(&["sliding_window"])
}

fn each(layers: u64, cache: impl Fn(u64) -> Cache) -> Vec<Cache> {
    (0..layers).map(cache).collect()
}

fn sliding(kv: Kv, window: Option<u64>, is_sliding: bool) -> Cache {
    match window {
        Some(window) if is_sliding => Cache::Rotating(kv, window),
        _ => Cache::Full(kv),
    }
}

fn caches(family: &str, text: Config<'_>) -> Result<Vec<Cache>, Problem> {
    match family {
        "gpt_bigcode" => {
            let kv = attention(family, text)?;
            let heads = if text.flag("multi_query") { 1 } else { kv.heads };
            Ok(each(text.layers()?, |_| Cache::Full(Kv { heads, ..kv })))
        }
        "layer_types" | "gpt_oss" | "gemma3" | "gemma3n" | "gemma4" | "cohere2" | "exaone4" | "llama4" => {
            sliding_families(family, text)
        }
        "mla" | "mla_indexed" | "mla_twice" | "mla_expanded" | "minicpm3" => latent_families(family, text),
        "gated_delta" | "mamba" | "mamba2" | "falcon_h1" | "nemotron_h" | "granitemoehybrid" | "jamba"
        | "lfm2" | "rwkv7" => super::recurrent::caches(family, text, || attention(family, text)),
        _ => {
            let kv = attention(family, text)?;
            Ok(each(text.layers()?, |_| Cache::Full(kv)))
        }
    }
}

fn sliding_families(family: &str, text: Config<'_>) -> Result<Vec<Cache>, Problem> {
    let kv = attention(family, text)?;
    let layers = if family == "gemma3" {
        text.layers().or_else(|problem| {
            // Its config may leave the number to the class.
            if text.get("num_hidden_layers").is_none() { Ok(26) } else { Err(problem) }
        })?
    } else {
        text.layers()?
    };
    let types = text.words("layer_types", layers)?;
    let is_sliding = |layer: u64, default: bool| {
        types
            .as_ref()
            .and_then(|types| types.get(usize::try_from(layer).unwrap_or(usize::MAX)))
            .map_or(default, |kind| *kind != "full_attention")
    };
    let window = window(text)?;
    Ok(match family {
        "layer_types" => each(layers, |n| sliding(kv, window, is_sliding(n, false))),
        "gpt_oss" => each(layers, |n| sliding(kv, window.or(Some(128)), is_sliding(n, n % 2 == 0))),
        "gemma3" => {
            let pattern = text.maybe(&["sliding_window_pattern"])?.unwrap_or(6);
            let window = window.or(Some(512));
            each(layers, |n| sliding(kv, window, n % pattern != pattern - 1))
        }
        "cohere2" => {
            let pattern = text.maybe(&["sliding_window_pattern"])?.unwrap_or(4);
            each(layers, |n| sliding(kv, window.or(Some(4096)), n % pattern != pattern - 1))
        }
        "exaone4" => {
            let pattern: Vec<char> =
                text.text("sliding_window_pattern").unwrap_or_default().chars().collect();
            let local = |n: u64| {
                pattern.len().try_into().ok().filter(|len: &u64| *len > 0).is_some_and(|len| {
                    usize::try_from(n % len).ok().and_then(|at| pattern.get(at)) == Some(&'L')
                })
            };
            each(layers, |n| sliding(kv, window, local(n)))
        }
        "llama4" => {
            let chunk = text.maybe(&["attention_chunk_size"])?;
            each(layers, |n| sliding(kv, chunk, (n + 1) % 4 != 0))
        }
        "gemma3n" => {
            let shared = shared_layers(text, 0)?;
            each(layers.saturating_sub(shared), |n| sliding(kv, window, is_sliding(n, false)))
        }
        _ => {
            let shared = shared_layers(text, 20)?;
            let global = text.maybe(&["global_head_dim"])?.unwrap_or(512);
            let global_heads = if text.flag("attention_k_eq_v") {
                text.unless_zero(&["num_global_key_value_heads"])?.unwrap_or(kv.heads)
            } else {
                kv.heads
            };
            let full = Kv { heads: global_heads, key: global, value: global };
            let pattern = text.maybe(&["sliding_window_pattern"])?.unwrap_or(5);
            each(layers.saturating_sub(shared), |n| {
                let slides = is_sliding(n, n % pattern != pattern - 1);
                sliding(if slides { kv } else { full }, window.or(Some(512)), slides)
            })
        }
    })
}

/// The last layers that use the caches of earlier ones; 0 is a valid number here.
fn shared_layers(text: Config<'_>, default: u64) -> Result<u64, Problem> {
    match text.get("num_kv_shared_layers") {
        None => Ok(default),
        Some(value) => value
            .as_u64()
            .ok_or_else(|| text.problem("num_kv_shared_layers", format!("`{value}` is no whole number"))),
    }
}

/// DeepSeek's latent attention: V3 keeps the latent and the rotated part of the key once for all heads, V2 (and
/// MiniCPM3) whole keys and values of every head.
fn latent_families(family: &str, text: Config<'_>) -> Result<Vec<Cache>, Problem> {
    let layers = text.layers()?;
    let rope = text.maybe(&["qk_rope_head_dim"])?.unwrap_or(64);
    let latent = |text: Config<'_>| -> Result<Kv, Problem> {
        Ok(Kv { heads: 1, key: text.maybe(&["kv_lora_rank"])?.unwrap_or(512), value: rope })
    };
    Ok(match family {
        "mla" => {
            let kv = latent(text)?;
            each(layers, |_| Cache::Latent(kv))
        }
        "mla_indexed" => {
            let kv = latent(text)?;
            // The index keeps its keys, and values of width 0.
            let index = Kv { heads: 1, key: text.maybe(&["index_head_dim"])?.unwrap_or(128), value: 0 };
            (0..layers).flat_map(|_| [Cache::Latent(kv), Cache::Latent(index)]).collect()
        }
        "mla_twice" => {
            let kv = latent(text)?;
            each(layers.saturating_mul(2), |_| Cache::Latent(kv))
        }
        _ => {
            let heads = heads(family, text)?;
            let nope = text.maybe(&["qk_nope_head_dim"])?.unwrap_or(128);
            let value = match text.maybe(&["v_head_dim"])? {
                Some(value) => value,
                None if family == "minicpm3" => text.need(&["hidden_size"])? / heads,
                None => 128,
            };
            let kv = Kv { heads, key: nope.saturating_add(rope), value };
            each(layers, |_| Cache::Full(kv))
        }
    })
}
