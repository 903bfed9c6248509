//! Rules of thumb: what `config.json` alone says about a model's caches, while mlx_lm has not been asked yet
//! (see [`super::profile`]). They know the usual names of dimensions but no families. Anything they do not understand
//! counts as keys and values in every layer.

use std::num::NonZeroU64;

use serde_json::Value;

use super::cache::{CACHE_STEP, Cache, Kind, Law, Slot};
use super::problem::Problem;
use super::shape::{MOST_LAYERS, Shape};

/// Largest dimension of a model that is accepted.
const LARGEST: u64 = 1 << 28;

/// Names in `layer_types` and `layers_block_type` of layers that do not keep keys and values.
const RECURRENT: [&str; 6] = ["linear_attention", "mamba", "conv", "recurrent", "recurrent_attention", "moe"];

/// Parses a `config.json`. The language model inside a multimodal one is under `text_config`.
///
/// # Errors
/// [`Problem::Config`] with the key that is missing, has the wrong type or is out of range.
pub(crate) fn shape(json: &str) -> Result<Shape, Problem> {
    // Python's JSON allows these numbers, JSON does not; none of the keys read here needs them.
    let plain = || json.replace("-Infinity", "0").replace("Infinity", "0").replace("NaN", "0");
    let outer: Value = serde_json::from_str(json)
        .or_else(|error| serde_json::from_str(&plain()).map_err(|_| error))
        .map_err(|error| Problem::Config {
            key: "(whole file)".to_owned(),
            why: format!("it is not JSON: {error}"),
        })?;
    let top = Config { value: &outer, at: "" };
    if !outer.is_object() {
        return Err(top.problem("(whole file)", "it is not a JSON object"));
    }
    let text = match top.get("text_config") {
        Some(value) if value.is_object() => Config { value, at: "text_config." },
        Some(_) => return Err(top.problem("text_config", "it is not an object")),
        None => top,
    };
    let family = top.text("model_type").ok_or_else(|| top.problem("model_type", "it is missing"))?;
    let layers = layers(text)?;
    let hidden = text.need(&["hidden_size", "n_embd", "d_model", "model_dim", "dim"])?;
    let heads = text.maybe(&["num_attention_heads", "n_head", "n_heads", "num_heads"])?;
    let declared = text.text("torch_dtype").or(text.text("dtype")).or(top.text("torch_dtype"));
    let activation = if declared.is_some_and(|name| name.contains("32")) { 4 } else { 2 };
    let caches = caches(text, layers.get(), hidden, heads, activation)?;
    let quantizes = !caches.iter().any(|cache| matches!(cache.kind, Kind::Rotating | Kind::Compressed));
    let dense = text.unless_zero(&["intermediate_size", "ffn_dim", "n_inner", "d_ff"]).unwrap_or_default();
    let expert = text.unless_zero(&["moe_intermediate_size"])?;
    let active = text.unless_zero(&["num_experts_per_tok", "moe_topk"])?.unwrap_or(1);
    let routed = expert.map(|width| width.saturating_mul(active));
    Ok(Shape {
        family: family.to_owned(),
        layers,
        hidden,
        heads: heads.unwrap_or(1),
        intermediate: dense.into_iter().chain(routed).max().unwrap_or(hidden.saturating_mul(4)),
        vocab: text.maybe(&["vocab_size"])?.or(top.maybe(&["vocab_size"])?).unwrap_or(0),
        context: text
            .maybe(&["max_position_embeddings", "n_positions", "max_seq_len", "model_max_length"])?
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        activation,
        caches,
        quantizes,
        batches: true,
    })
}

fn layers(text: Config<'_>) -> Result<NonZeroU64, Problem> {
    let keys = ["num_hidden_layers", "n_layers", "n_layer", "num_layers"];
    let layers = text.need(&keys)?;
    match NonZeroU64::new(layers) {
        Some(layers) if layers.get() <= MOST_LAYERS => Ok(layers),
        _ => Err(text.problem(keys[0], format!("{layers} layers: no model has more than {MOST_LAYERS}"))),
    }
}

fn caches(
    text: Config<'_>,
    layers: u64,
    hidden: u64,
    heads: Option<u64>,
    element: u64,
) -> Result<Vec<Cache>, Problem> {
    let stepped = Law::Stepped { step: CACHE_STEP };
    let cache = |kind, count, slots: [(u64, u64); 2], law| Cache {
        kind,
        nested: false,
        count,
        slots: slots.map(|(heads, width)| Slot::of(heads, width, element, law)).to_vec(),
    };
    // DeepSeek's latent attention stores the latent and the rotated part of the key once for all heads.
    if let Some(rank) = text.unless_zero(&["kv_lora_rank"])? {
        let rope = text.maybe(&["qk_rope_head_dim"])?.unwrap_or(64);
        return Ok(vec![cache(Kind::Compressed, layers, [(1, rank), (1, rope)], stepped)]);
    }
    let kv = text.maybe(&["num_key_value_heads", "num_kv_heads", "n_kv_heads"])?.or(heads);
    // Without head counts (the family's class has defaults), keys are assumed to be as wide as the residual stream.
    let (kv, width) = match (text.unless_zero(&["head_dim"])?, heads, kv) {
        (Some(width), _, Some(kv)) => (kv, width),
        (None, Some(heads), Some(kv)) if hidden >= heads => (kv, hidden / heads),
        (None, Some(heads), _) => {
            return Err(text.problem("num_attention_heads", format!("{heads} heads in a width of {hidden}")));
        }
        _ => (1, hidden),
    };
    let Counts { full, sliding } = counts(text, layers)?;
    let both = [(kv, width); 2];
    let mut caches = vec![cache(Kind::Full, full, both, stepped)];
    if let Some(window) =
        text.unless_zero(&["sliding_window", "attention_chunk_size"])?.filter(|_| sliding > 0)
    {
        caches.push(cache(Kind::Rotating, sliding, both, Law::Rotating { step: CACHE_STEP, window }));
    } else if let Some(all) = caches.first_mut() {
        all.count += sliding;
    }
    Ok(caches)
}

/// How many layers keep all keys and values, and how many only a window.
struct Counts {
    full: u64,
    sliding: u64,
}

fn counts(text: Config<'_>, layers: u64) -> Result<Counts, Problem> {
    let words = match text.words("layer_types", layers)? {
        Some(words) => Some(words),
        None => text.words("layers_block_type", layers)?,
    };
    if let Some(words) = words {
        let recurrent = words.iter().filter(|word| RECURRENT.contains(word)).count() as u64;
        let slides = |word: &&&str| word.contains("sliding") || word.contains("chunk");
        let sliding = words.iter().filter(slides).count() as u64;
        return Ok(Counts { full: layers.saturating_sub(sliding + recurrent), sliding });
    }
    if let Some(every) = text.maybe(&["full_attention_interval"])? {
        return Ok(Counts { full: layers / every, sliding: 0 });
    }
    // One layer in every N has full attention; a pattern given as letters is not understood.
    let pattern = text.get("sliding_window_pattern").and_then(Value::as_u64).filter(|every| *every > 0);
    let full = pattern.map_or(layers, |every| layers / every);
    Ok(Counts { full, sliding: layers - full })
}

/// A `config.json` or a part of it, whose errors name the full key.
#[derive(Clone, Copy)]
struct Config<'a> {
    value: &'a Value,
    at: &'static str,
}

impl<'a> Config<'a> {
    fn problem(self, key: &str, why: impl Into<String>) -> Problem {
        Problem::Config { key: format!("{}{key}", self.at), why: why.into() }
    }

    fn get(self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// The first of `keys` that is present, as a number from 1 to [`LARGEST`].
    fn maybe(self, keys: &[&str]) -> Result<Option<u64>, Problem> {
        let Some((key, value)) = keys.iter().find_map(|key| self.get(key).map(|value| (*key, value))) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(n @ 1..=LARGEST) => Ok(Some(n)),
            Some(n) => Err(self.problem(key, format!("{n} is out of range (1 to {LARGEST})"))),
            None => Err(self.problem(key, format!("`{value}` is not a positive whole number"))),
        }
    }

    /// As [`maybe`](Self::maybe), but 0 means that there is none.
    fn unless_zero(self, keys: &[&str]) -> Result<Option<u64>, Problem> {
        let zero = keys.iter().find_map(|key| self.get(key)).is_some_and(|value| value.as_u64() == Some(0));
        if zero { Ok(None) } else { self.maybe(keys) }
    }

    fn need(self, keys: &[&str]) -> Result<u64, Problem> {
        self.maybe(keys)?
            .ok_or_else(|| self.problem(keys.first().copied().unwrap_or_default(), "it is missing"))
    }

    fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// A list with one word per layer, cut to `layers`; `None`: the key is missing.
    fn words(self, key: &str, layers: u64) -> Result<Option<Vec<&'a str>>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let words: Option<Vec<&str>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        match words {
            Some(words) if words.len() as u64 >= layers => {
                Ok(Some(words.into_iter().zip(0..layers).map(|(word, _)| word).collect()))
            }
            Some(words) => Err(self.problem(key, format!("it lists {} of {layers} layers", words.len()))),
            None => Err(self.problem(key, "it is not a list of words")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::Bytes;

    const GOOD: &str = r#"{"model_type":"qwen2","hidden_size":5120,"num_hidden_layers":64,"num_attention_heads":40,
        "num_key_value_heads":8,"intermediate_size":27648,"vocab_size":152064,"max_position_embeddings":131072}"#;

    fn with(from: &str, to: &str) -> Shape {
        shape(&GOOD.replace(from, to)).unwrap()
    }

    #[test]
    fn the_usual_names_are_understood_and_everything_else_counts_as_full_attention() {
        let each = |shape: &Shape| shape.kv(25_600, None).0 / 25_600;
        assert_eq!(each(&with("", "")), 262_144);
        assert_eq!(
            each(&with("qwen2\"", "brand_new\",\"rope_theta\":Infinity")),
            262_144,
            "Python's Infinity is accepted"
        );
        assert_eq!(
            each(&with("\"num_attention_heads\":40,", "").clone()),
            64 * 5120 * 4 / 5 * 5,
            "as wide as the residual stream"
        );
        let latent = with("qwen2\"", "x\",\"kv_lora_rank\":512,\"qk_rope_head_dim\":64");
        assert_eq!((each(&latent), latent.quantizes), (64 * 576 * 2, false));
        let hybrid = with("qwen2\"", "x\",\"full_attention_interval\":4");
        assert_eq!(each(&hybrid), 262_144 / 4);
        let sliding = with("qwen2\"", "x\",\"sliding_window\":512,\"sliding_window_pattern\":4");
        assert_eq!(sliding.kv(25_600, None), Bytes(262_144 / 4 * 25_600 + 262_144 / 4 * 3 * 512));
        assert_eq!(sliding.unquantizable(), Some("sliding-window"));
        let nested = format!("{{\"model_type\":\"vision\",\"text_config\":{GOOD}}}");
        assert_eq!(each(&shape(&nested).unwrap()), 262_144);
    }

    #[test]
    fn absurd_configurations_are_named_with_their_key() {
        for (from, to, says) in [
            (
                "\"num_attention_heads\":40",
                "\"num_attention_heads\":0",
                "num_attention_heads: 0 is out of range",
            ),
            (
                "\"num_hidden_layers\":64",
                "\"num_hidden_layers\":1000000000000",
                "num_hidden_layers: 1000000000000 is out",
            ),
            ("\"num_hidden_layers\":64", "\"num_hidden_layers\":Infinity", "num_hidden_layers: 0 is out"),
            ("\"num_hidden_layers\":64", "\"num_hidden_layers\":5000", "5000 layers"),
            ("\"num_hidden_layers\":64", "\"num_hidden_layers\":\"64\"", "`\"64\"` is not a positive"),
            ("\"hidden_size\":5120", "\"hidden_size\":-1", "hidden_size: `-1` is not a positive"),
            ("\"hidden_size\":5120", "\"hidden_size\":3", "40 heads in a width of 3"),
            ("\"hidden_size\":5120", "\"hidden\":5120", "hidden_size: it is missing"),
            ("\"model_type\":\"qwen2\"", "\"model_type\":7", "model_type: it is missing"),
            ("{\"model_type\"", "{\"text_config\":[],\"model_type\"", "text_config: it is not an object"),
            ("qwen2\"", "x\",\"layer_types\":[\"full_attention\"]", "it lists 1 of 64 layers"),
            ("{", "[{", "it is not JSON"),
        ] {
            let problem = shape(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(problem.contains(says), "{to}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn no_configuration_makes_it_panic(
            numbers in prop::collection::vec(prop_oneof![0_u64..70, any::<u64>()], 16),
            nested: bool,
        ) {
            const KEYS: [&str; 14] = [
                "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                "intermediate_size", "vocab_size", "sliding_window", "sliding_window_pattern", "kv_lora_rank",
                "qk_rope_head_dim", "full_attention_interval", "attention_chunk_size", "moe_topk",
            ];
            let mut config: serde_json::Map<String, Value> =
                KEYS.iter().zip(&numbers).map(|(key, n)| ((*key).to_owned(), Value::from(*n))).collect();
            config.insert("model_type".into(), Value::from("x"));
            let config = Value::from(config);
            let config = if nested { serde_json::json!({ "model_type": "x", "text_config": config }) } else { config };
            if let Ok(shape) = shape(&config.to_string()) {
                let _ = shape.kv(numbers[14], Some((4, numbers[15], numbers[14])));
                let _ = (shape.query_width(), shape.attended(numbers[14], numbers[15]), shape.unquantizable());
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = shape(&text);
        }
    }
}
