//! What a model keeps a token: from its `config.json` to the caches that mlx_lm builds for it.
//!
//! The families follow `make_cache` of mlx_lm 0.32 (`mlx_lm/models/*.py`). A family that is not known is taken for
//! full attention in every layer. Where there is a [profile](super::profile), that counts instead.

use serde_json::Value;

use super::family;
use super::problem::Problem;
use super::profile::Law;
use crate::units::Bytes;

/// Caches grow by so many tokens at once (`KVCache.step` in `mlx_lm/models/cache.py`).
pub const CACHE_STEP: u64 = 256;

/// No model has more layers; a config.json that says so describes none.
pub const MOST_LAYERS: u64 = 4096;

/// No dimension of a model is larger.
const LARGEST: u64 = 1 << 28;

/// The parts of a `config.json` that decide about memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// `model_type` of the text model.
    pub family: String,
    /// Layers, with or without a cache.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Width of a dense MLP, or of the experts that one token passes together.
    pub intermediate: u64,
    /// Tokens in the vocabulary.
    pub vocab: u64,
    /// Longest sequence that the model was made for, tokens.
    pub context: Option<u32>,
    /// Bytes of an activation element as the config declares it (`torch_dtype`); the weights know better.
    pub declared_activation: Option<u64>,
    /// Bits of quantised weights; `None`: not quantised.
    pub weight_bits: Option<u64>,
    /// What is kept, a layer an entry (some layers have two caches, some none).
    pub caches: Vec<Cache>,
    /// Whether the family is one whose caches are known exactly.
    pub known: bool,
    /// Whether `--kv-bits` works, as far as is known.
    pub quantizes: bool,
}

/// The cache of one layer. Dimensions are elements; their bytes depend on the activation type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Grows with the sequence (`KVCache`).
    Full(Kv),
    /// The same, of a latent: cannot be quantised (MLA).
    Latent(Kv),
    /// Holds the last `window` tokens (`RotatingKVCache`, `ChunkedKVCache`).
    Rotating(Kv, u64),
    /// Does not grow (`ArraysCache`): so many elements of the activation type, and so many of float32.
    State {
        /// Elements of the activation type.
        narrow: u64,
        /// Elements of float32.
        wide: u64,
    },
    /// An array of a cache that is none of these, in bytes, as mlx_lm was seen to keep it.
    Array {
        /// How many rows.
        law: Law,
        /// Bytes of a row.
        bytes: u64,
        /// Elements of a head; 0: it has none.
        width: u64,
    },
}

/// What one token leaves in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kv {
    /// KV heads.
    pub heads: u64,
    /// Key elements a head.
    pub key: u64,
    /// Value elements a head.
    pub value: u64,
}

/// The type of cached keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Bytes of an activation element, 2 or 4.
    pub activation: u64,
    /// Bits, group size, and the position from which caches are quantised (`--kv-bits`, `--kv-group-size`,
    /// `--quantized-kv-start`).
    pub quantized: Option<(u64, u64, u64)>,
}

impl Kv {
    fn plain(self, activation: u64) -> u64 {
        self.heads.saturating_mul(self.key.saturating_add(self.value)).saturating_mul(activation)
    }

    /// As `QuantizedKVCache` lays it out: packed 32-bit words, and a scale and a bias a group.
    fn quantized(self, activation: u64, bits: u64, group: u64) -> u64 {
        let dim = |n: u64| (n * bits).div_ceil(32) * 4 + n / group.max(1) * 2 * activation;
        self.heads.saturating_mul(dim(self.key).saturating_add(dim(self.value)))
    }
}

impl Shape {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`Problem::Config`] with the key that is missing, of the wrong type or out of range.
    pub fn parse(json: &str) -> Result<Self, Problem> {
        let outer: Value = serde_json::from_str(json).map_err(|error| Problem::Config {
            key: "(whole file)".to_owned(),
            why: format!("it is no JSON: {error}"),
        })?;
        family::shape(&outer)
    }

    /// Bytes of all caches of one sequence of `tokens` tokens, as they are allocated: growing caches in steps of
    /// [`CACHE_STEP`].
    #[must_use]
    pub fn kv(&self, tokens: u64, precision: Precision) -> Bytes {
        self.caches.iter().map(|cache| cache.bytes(tokens, precision)).sum()
    }

    /// Bytes that one more token takes while all caches still grow, and once the rotating ones are full.
    #[must_use]
    pub fn per_token(&self, precision: Precision) -> (Bytes, Bytes) {
        let activation = precision.activation;
        let of = |rotating: bool| {
            self.caches.iter().map(move |cache| match *cache {
                Cache::Full(kv) => Bytes(match precision.quantized {
                    Some((bits, group, _)) => kv.quantized(activation, bits, group),
                    None => kv.plain(activation),
                }),
                Cache::Latent(kv) => Bytes(kv.plain(activation)),
                Cache::Rotating(kv, _) if rotating => Bytes(kv.plain(activation)),
                Cache::Array { law: Law::Quotient { step }, bytes, .. } => Bytes(bytes.div_ceil(step.get())),
                Cache::Array { law: Law::Fixed | Law::Remainder { .. }, .. } => Bytes::ZERO,
                Cache::Array { law, bytes, .. } if rotating || law.window().is_none() => Bytes(bytes),
                Cache::Rotating(..) | Cache::State { .. } | Cache::Array { .. } => Bytes::ZERO,
            })
        };
        (of(true).sum(), of(false).sum())
    }

    /// The width of a query, which is what the fused attention kernels are made for; `None`: no attention, or of
    /// several widths.
    #[must_use]
    pub fn query_width(&self) -> Option<u64> {
        let mut widths = self.caches.iter().filter_map(|cache| match cache {
            Cache::Full(kv) | Cache::Rotating(kv, _) if kv.key == kv.value => Some(kv.key),
            Cache::Full(_) | Cache::Rotating(..) | Cache::Latent(_) => Some(0),
            Cache::Array { width, .. } => Some(*width),
            Cache::State { .. } => None,
        });
        let first = widths.next()?;
        widths.all(|width| width == first).then_some(first)
    }

    /// Bytes of the largest float32 state of a recurrent layer; 0: there is none.
    #[must_use]
    pub fn largest_state(&self) -> u64 {
        let wide = |cache: &Cache| if let Cache::State { wide, .. } = cache { *wide } else { 0 };
        self.caches.iter().map(wide).max().unwrap_or(0).saturating_mul(4)
    }

    /// Layers that keep a state of fixed size.
    #[must_use]
    pub fn recurrent_layers(&self) -> u64 {
        self.caches.iter().filter(|cache| matches!(cache, Cache::State { .. })).count() as u64
    }

    /// What sliding caches hold of a sequence after a step of its prompt: to the window, less one, all of the step is
    /// appended (`_update_concat` of `RotatingKVCache` and its batched kind in mlx_lm/models/cache.py), and cut off
    /// again by the next one. After a step of one token, the window.
    #[must_use]
    pub fn sliding(&self, tokens: u64, step: u64, precision: Precision) -> Bytes {
        let rows = |window: u64| window.saturating_sub(1).saturating_add(step).min(tokens);
        let of = |cache: &Cache| match *cache {
            Cache::Rotating(kv, window) => kv.plain(precision.activation).saturating_mul(rows(window)),
            Cache::Array { law: Law::Rotating { window, .. }, bytes, .. } => {
                bytes.saturating_mul(rows(window))
            }
            _ => 0,
        };
        Bytes(self.caches.iter().map(of).fold(0, u64::saturating_add))
    }

    /// The most tokens that a token attends to at a sequence of `tokens` tokens, while `step` are processed.
    #[must_use]
    pub fn attended(&self, tokens: u64, step: u64) -> u64 {
        self.caches
            .iter()
            .map(|cache| match *cache {
                Cache::Full(_) | Cache::Latent(_) => tokens,
                Cache::Rotating(_, window) => window.saturating_add(step).min(tokens),
                Cache::Array { law: Law::Quotient { step: group }, .. } => tokens / group,
                Cache::Array { law, .. } => {
                    law.window().map_or(tokens, |window| window.saturating_add(step).min(tokens))
                }
                Cache::State { .. } => 0,
            })
            .max()
            .unwrap_or(0)
    }

    /// The caches that mlx_lm cannot quantise, if there are any: `--kv-bits` makes it fail in the first request.
    #[must_use]
    pub fn unquantizable(&self) -> Option<&'static str> {
        let named = self.caches.iter().find_map(|cache| match cache {
            Cache::Rotating(..) => Some("sliding-window"),
            Cache::Latent(_) => Some("latent (MLA)"),
            Cache::Full(_) | Cache::State { .. } | Cache::Array { .. } => None,
        });
        named.or((!self.quantizes).then_some("key and value"))
    }
}

impl Cache {
    fn bytes(self, tokens: u64, precision: Precision) -> Bytes {
        let activation = precision.activation;
        let times = |kv: u64, tokens: u64| Bytes(kv.saturating_mul(tokens));
        let grown = tokens.div_ceil(CACHE_STEP).saturating_mul(CACHE_STEP);
        match self {
            Self::Full(kv) => match precision.quantized {
                // The largest that it ever was: just before the switch to quantised, or at the end.
                Some((bits, group, start)) if tokens >= start => {
                    let before = start.div_ceil(CACHE_STEP).saturating_mul(CACHE_STEP).min(grown);
                    times(kv.quantized(activation, bits, group), grown)
                        .max(times(kv.plain(activation), before))
                }
                _ => times(kv.plain(activation), grown),
            },
            Self::Latent(kv) => times(kv.plain(activation), grown),
            // It starts as long as the prompt and grows by a step with the first token of the answer.
            Self::Rotating(kv, window) => {
                times(kv.plain(activation), tokens.saturating_add(CACHE_STEP - 1).min(window))
            }
            Self::State { narrow, wide } => {
                Bytes(narrow.saturating_mul(activation).saturating_add(wide.saturating_mul(4)))
            }
            Self::Array { law, bytes, .. } => times(bytes, law.rows(tokens)),
        }
    }
}

/// A `config.json` or a part of it, read with the key's name in every complaint.
#[derive(Clone, Copy)]
pub(super) struct Config<'a> {
    value: &'a Value,
    at: &'static str,
}

impl<'a> Config<'a> {
    pub(super) fn new(value: &'a Value, at: &'static str) -> Self {
        Self { value, at }
    }

    pub(super) fn problem(self, key: &str, why: impl Into<String>) -> Problem {
        Problem::Config { key: format!("{}{key}", self.at), why: why.into() }
    }

    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// A count between 1 and [`LARGEST`] under the first of `keys` that is there.
    pub(super) fn maybe(self, keys: &[&str]) -> Result<Option<u64>, Problem> {
        let Some((key, value)) = keys.iter().find_map(|key| self.get(key).map(|value| (*key, value))) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(n @ 1..=LARGEST) => Ok(Some(n)),
            Some(n) => Err(self.problem(key, format!("{n} is out of range (1 to {LARGEST})"))),
            None => Err(self.problem(key, format!("`{value}` is no positive whole number"))),
        }
    }

    /// As [`maybe`](Self::maybe), where 0 means that there is none.
    pub(super) fn unless_zero(self, keys: &[&str]) -> Result<Option<u64>, Problem> {
        let zero = keys.iter().find_map(|key| self.get(key)).is_some_and(|value| value.as_u64() == Some(0));
        if zero { Ok(None) } else { self.maybe(keys) }
    }

    pub(super) fn need(self, keys: &[&str]) -> Result<u64, Problem> {
        self.maybe(keys)?
            .ok_or_else(|| self.problem(keys.first().copied().unwrap_or_default(), "it is missing"))
    }

    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    pub(super) fn flag(self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    pub(super) fn layers(self) -> Result<u64, Problem> {
        let keys = ["num_hidden_layers", "n_layers", "n_layer", "num_layers"];
        let layers = self.need(&keys)?;
        if layers > MOST_LAYERS {
            return Err(
                self.problem(keys[0], format!("{layers} layers: no model has more than {MOST_LAYERS}"))
            );
        }
        Ok(layers)
    }

    /// A list of words, a layer a word, cut to `layers`; `None` where the key is not there.
    pub(super) fn words(self, key: &str, layers: u64) -> Result<Option<Vec<&'a str>>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let words: Option<Vec<&str>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        match words {
            Some(words) if words.len() as u64 >= layers => {
                Ok(Some(words.into_iter().zip(0..layers).map(|(word, _)| word).collect()))
            }
            Some(words) => Err(self.problem(key, format!("it names {} layers of {layers}", words.len()))),
            None => Err(self.problem(key, "it is no list of words")),
        }
    }

    /// The numbers of a list.
    pub(super) fn numbers(self, key: &str) -> Result<Option<Vec<u64>>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>())
            .map(Some)
            .ok_or_else(|| self.problem(key, "it is no list of whole numbers"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"model_type":"qwen2","hidden_size":5120,"num_hidden_layers":64,"num_attention_heads":40,
        "num_key_value_heads":8,"intermediate_size":27648,"vocab_size":152064,"max_position_embeddings":131072}"#;
    const PLAIN: Precision = Precision { activation: 2, quantized: None };

    #[test]
    fn a_32b_model_keeps_262144_bytes_a_token() {
        let shape = Shape::parse(GOOD).unwrap();
        assert_eq!(shape.per_token(PLAIN).0, Bytes(262_144));
        assert_eq!(shape.kv(30_013, PLAIN), Bytes(262_144 * 30_208), "in steps of 256 tokens");
    }

    #[test]
    fn a_sliding_cache_holds_a_step_beyond_its_window_while_a_prompt_is_processed() {
        let kv = Kv { heads: 4, key: 128, value: 128 };
        let caches = vec![Cache::Full(kv), Cache::Rotating(kv, 512), Cache::Rotating(kv, 4096)];
        let shape = Shape { caches, ..Shape::parse(GOOD).unwrap() };
        let rows = |tokens, step| shape.sliding(tokens, step, PLAIN).0 / kv.plain(2);
        assert_eq!(rows(400, 400), 400 + 400);
        assert_eq!([rows(1200, 1), rows(1200, 512), rows(1200, 2048)], [1712, 2223, 2400]);
        assert_eq!(rows(30_000, 512), 1023 + 4607);
    }

    #[test]
    fn absurd_configurations_are_named_with_their_key() {
        let with = |from: &str, to: &str| Shape::parse(&GOOD.replace(from, to)).unwrap_err().to_string();
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
            ("\"num_hidden_layers\":64", "\"num_hidden_layers\":5000", "5000 layers"),
            (
                "\"num_hidden_layers\":64",
                "\"num_hidden_layers\":\"64\"",
                "`\"64\"` is no positive whole number",
            ),
            ("\"hidden_size\":5120", "\"hidden_size\":-1", "hidden_size: `-1` is no positive"),
            ("\"hidden_size\":5120", "\"hidden_size\":3", "40 heads in a width of 3"),
            ("\"hidden_size\":5120", "\"hidden\":5120", "hidden_size: it is missing"),
            ("\"model_type\":\"qwen2\"", "\"model_type\":7", "model_type: it is missing"),
            ("{\"model_type\"", "{\"text_config\":[],\"model_type\"", "text_config: it is no object"),
            ("{", "[{", "it is no JSON"),
        ] {
            let problem = with(from, to);
            assert!(problem.contains(says), "{to}: {problem}");
        }
        let short = GOOD.replace("qwen2\"", "llama\",\"layer_types\":[\"full_attention\"]");
        assert!(Shape::parse(&short).unwrap_err().to_string().contains("it names 1 layers of 64"));
    }

    #[test]
    fn a_family_that_is_not_known_counts_as_full_attention() {
        let shape = Shape::parse(&GOOD.replace("qwen2", "brand_new")).unwrap();
        assert!(!shape.known && shape.caches.iter().all(|cache| matches!(cache, Cache::Full(_))));
    }

    #[test]
    fn quantised_caches_are_smaller_and_never_less_than_what_came_before_the_switch() {
        let shape = Shape::parse(GOOD).unwrap();
        let at = |start| shape.kv(30_000, Precision { activation: 2, quantized: Some((4, 64, start)) });
        assert!(at(0) < Bytes(shape.kv(30_000, PLAIN).0 / 3));
        assert!(at(25_000) >= shape.kv(25_000, PLAIN));
        assert_eq!(at(40_000), shape.kv(30_000, PLAIN), "not reached");
    }

    proptest! {
        #[test]
        fn no_configuration_makes_it_panic_or_answer_without_layers(
            family in "llama|gemma3|gemma3n|gemma4|cohere2|exaone4|llama4|deepseek_v[23]|deepseek_v32|qwen3_next|mamba2?|\
                       falcon_h1|nemotron_h|granitemoehybrid|jamba|lfm2|rwkv7|gpt_oss|longcat_flash|x",
            numbers in prop::collection::vec(prop_oneof![0_u64..70, any::<u64>()], 40),
            nested: bool,
        ) {
            const KEYS: [&str; 36] = [
                "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                "intermediate_size", "vocab_size", "sliding_window", "sliding_window_pattern", "kv_lora_rank",
                "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "linear_num_key_heads", "linear_num_value_heads",
                "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "full_attention_interval",
                "state_size", "conv_kernel", "num_heads", "n_groups", "mamba_d_state", "mamba_d_conv", "mamba_n_groups",
                "mamba_n_heads", "mamba_d_head", "mamba_expand", "conv_L_cache", "attn_layer_offset",
                "attn_layer_period", "num_kv_shared_layers", "attention_chunk_size", "index_head_dim", "moe_topk",
            ];
            let mut config: serde_json::Map<String, Value> =
                KEYS.iter().zip(&numbers).map(|(key, n)| ((*key).to_owned(), Value::from(*n))).collect();
            config.insert("model_type".into(), Value::from(family));
            config.insert("hybrid_override_pattern".into(), Value::from("M*-E"));
            let config = if nested { serde_json::json!({ "text_config": config }) } else { Value::from(config) };
            if let Ok(shape) = Shape::parse(&config.to_string()) {
                prop_assert!(shape.layers > 0 && shape.caches.len() as u64 <= 2 * MOST_LAYERS);
                let _ = shape.kv(numbers[37], Precision { activation: 2, quantized: Some((4, numbers[38], numbers[39])) });
                let _ = (shape.query_width(), shape.attended(numbers[37], numbers[38]), shape.unquantizable());
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = Shape::parse(&text);
        }
    }
}
