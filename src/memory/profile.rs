//! The cache profile: what mlx_lm itself says of a model's memory, as `src/python/profile.py` writes it down. It
//! replaces the rules of `family` and the sizes of the files wherever it is there.

use std::num::NonZeroU64;

use serde::Deserialize;

use super::shape::{Cache, Kv, MOST_LAYERS, Shape};
use super::weights::Header;
use crate::units::Bytes;

/// One model under one set of versions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Profile {
    /// `model_type`.
    pub family: String,
    /// Where the weights' size is from.
    #[serde(rename = "from")]
    pub source: Source,
    /// Layers, with or without a cache.
    pub layers: NonZeroU64,
    /// Width of the residual stream; 0: the configuration does not name it.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Width of a dense MLP, or of the experts that one token passes together.
    pub intermediate: u64,
    /// Width of the logits.
    pub vocabulary: u64,
    /// Longest sequence that the model was made for, tokens.
    pub context: Option<u64>,
    /// The type of keys and values.
    pub activation: Activation,
    /// Whether the server processes several requests together (without a draft model and quantised caches).
    pub batches: bool,
    /// Why `--kv-bits` fails in the first request; `None`: it works.
    pub unquantizable: Option<String>,
    /// What the chat template reads; `None`: there is none.
    pub template: Option<Template>,
    /// The words that begin and end a model's thinking; `None`: it does not think.
    pub thinking: Option<(String, String)>,
    /// As served: FP8 expanded, what mlx_lm leaves out left out.
    pub weights: Weights,
    /// Each kind of cache once.
    pub caches: Vec<Entry>,
    /// For each cache, in order of the layers, its kind: an index into `caches`.
    pub order: Vec<usize>,
    /// Whether every rule held at every length that was tried; otherwise some are upper bounds.
    pub exact: bool,
}

/// What a size was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The files, as mlx_lm loads them.
    Weights,
    /// `config.json` alone.
    Config,
}

/// A floating-point type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Activation {
    /// "bfloat16".
    pub dtype: String,
    /// Its size, 2 or 4.
    pub bytes: NonZeroU64,
}

/// A chat template, which was parsed and not run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Template {
    /// The file that it is in.
    pub file: String,
    /// The variables that it reads, in order of the alphabet.
    #[serde(default)]
    pub variables: Vec<String>,
    /// Why it cannot be parsed.
    pub error: Option<String>,
}

/// Parameters of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Weights {
    /// Bytes in memory.
    pub bytes: Bytes,
    /// How many arrays.
    pub tensors: usize,
}

/// One kind of cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// "full", "rotating", "chunked", "compressed", "recurrent", "none", "other".
    pub kind: String,
    /// Whether it lies in a list of caches, which `--kv-bits` passes over.
    pub nested: bool,
    /// Its arrays.
    pub slots: Vec<Slot>,
}

/// One array of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// "keys", "values", or a number.
    pub name: String,
    /// Bytes of an element.
    pub element: u64,
    /// KV heads, where it has any.
    #[serde(default)]
    pub heads: u64,
    /// Elements of a head.
    #[serde(default)]
    pub width: u64,
    /// Bytes of a row.
    pub bytes: u64,
    /// How many rows.
    #[serde(flatten)]
    pub law: Law,
}

/// Rows of an array after a number of tokens (`rows` in `profile.py` is the same).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "law", rename_all = "lowercase")]
pub enum Law {
    /// One, always.
    Fixed,
    /// One a token, rounded up to `step`.
    Stepped {
        /// How many at once.
        step: NonZeroU64,
    },
    /// Not known exactly: never more than this.
    Bound {
        /// How many at once.
        step: NonZeroU64,
    },
    /// As long as the prompt, grown by a step with the answer, up to the window.
    Rotating {
        /// How many at once.
        step: NonZeroU64,
        /// The most.
        window: u64,
    },
    /// One a token, up to the window.
    Window {
        /// The most.
        window: u64,
    },
    /// Cut to the chunk, which then grows by a step.
    Chunked {
        /// How many at once.
        step: NonZeroU64,
        /// The chunk.
        window: u64,
    },
    /// One for every `step` tokens.
    Quotient {
        /// Tokens a row.
        step: NonZeroU64,
    },
    /// The tokens that do not fill a group of `step` yet.
    Remainder {
        /// Tokens a group.
        step: NonZeroU64,
    },
}

impl Law {
    /// Rows after `tokens` tokens.
    #[must_use]
    pub fn rows(self, tokens: u64) -> u64 {
        let grown = |step: NonZeroU64| tokens.div_ceil(step.get()).saturating_mul(step.get());
        match self {
            Self::Fixed => 1,
            Self::Stepped { step } | Self::Bound { step } => grown(step),
            Self::Rotating { step, window } => tokens.saturating_add(step.get() - 1).min(window),
            Self::Window { window } => tokens.min(window),
            Self::Chunked { step, window } => {
                let full = tokens.saturating_sub(1) > window
                    || (tokens > window && window.is_multiple_of(step.get()));
                if full { window.saturating_add(step.get()) } else { grown(step) }
            }
            Self::Quotient { step } => tokens / step,
            Self::Remainder { step } => tokens % step,
        }
    }

    /// The longest that it gets; `None`: it grows as long as the sequence does.
    #[must_use]
    pub fn window(self) -> Option<u64> {
        match self {
            Self::Stepped { .. } | Self::Bound { .. } | Self::Quotient { .. } => None,
            Self::Rotating { window, .. } | Self::Window { window } | Self::Chunked { window, .. } => {
                Some(window)
            }
            Self::Fixed => Some(1),
            Self::Remainder { step } => Some(step.get()),
        }
    }
}

/// Why there is no profile: mlx_lm cannot serve this model, or it could not be tried.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Of which kind.
    pub kind: RefusedKind,
    /// In one sentence.
    pub message: String,
}

/// What a refusal comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusedKind {
    /// `config.json` describes no model.
    Config,
    /// This mlx_lm lacks the family.
    Family,
    /// mlx_lm fails at this configuration.
    Build,
    /// mlx_lm fails at these weights.
    Weights,
    /// The model brings code, or tried to run some.
    Code,
    /// It took too long, or too much memory.
    Limit,
    /// It cannot be divided so.
    Ranks,
    /// The probe itself failed.
    Internal,
}

impl Profile {
    /// Reads what the probe wrote.
    ///
    /// # Errors
    /// What the probe says instead; [`RefusedKind::Internal`] for a document that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Document {
            Error { error: Refused },
            Profile(Box<Profile>),
        }
        let internal = |message: String| Refused { kind: RefusedKind::Internal, message };
        match serde_json::from_str(text) {
            Ok(Document::Error { error }) => Err(error),
            Ok(Document::Profile(profile)) => {
                let known = profile.order.iter().all(|&kind| kind < profile.caches.len());
                // A layer may have several caches.
                let count = profile.order.len() as u64;
                if known && count <= 8 * MOST_LAYERS && profile.layers.get() <= MOST_LAYERS {
                    Ok(*profile)
                } else {
                    Err(internal("the profile contradicts itself".to_owned()))
                }
            }
            Err(error) => Err(internal(format!("the profile cannot be read: {error}"))),
        }
    }

    /// What the estimate computes with.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape {
            family: self.family.clone(),
            layers: self.layers.get(),
            hidden: self.hidden,
            heads: self.heads.max(1),
            intermediate: self.intermediate,
            vocab: self.vocabulary,
            context: self.context.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)),
            declared_activation: Some(self.activation.bytes.get()),
            weight_bits: None,
            caches: self
                .order
                .iter()
                .filter_map(|&kind| self.caches.get(kind))
                .flat_map(|entry| self.cache(entry))
                .collect(),
            known: true,
            quantizes: self.unquantizable.is_none(),
        }
    }

    /// The weights as served, where they were seen.
    #[must_use]
    pub fn weights(&self, files: Header) -> Header {
        if self.source == Source::Config {
            return files;
        }
        let Weights { bytes, tensors } = self.weights;
        let float_bytes = if self.activation.bytes.get() == 4 { [0, bytes.0] } else { [bytes.0, 0] };
        Header { tensors, bytes, float_bytes }
    }

    /// One cache in the terms of [`Shape`]; empty: it keeps nothing.
    fn cache(&self, entry: &Entry) -> Vec<Cache> {
        if let Some(cache) = self.attention(entry) {
            return vec![cache];
        }
        let (fixed, growing): (Vec<&Slot>, Vec<&Slot>) =
            entry.slots.iter().partition(|slot| slot.law == Law::Fixed);
        let bytes = |wide: bool| -> u64 {
            fixed
                .iter()
                .filter(|slot| (slot.element == 4) == wide)
                .map(|slot| slot.bytes)
                .fold(0, u64::saturating_add)
        };
        let mut caches: Vec<Cache> = growing
            .into_iter()
            .map(|slot| Cache::Array { law: slot.law, bytes: slot.bytes, width: slot.width })
            .collect();
        if bytes(false) > 0 || bytes(true) > 0 {
            let narrow = bytes(false).div_ceil(self.activation.bytes.get());
            caches.push(Cache::State { narrow, wide: bytes(true).div_ceil(4) });
        }
        caches
    }

    /// Keys and values of ordinary attention, which scale with the activation type and may be quantised.
    fn attention(&self, entry: &Entry) -> Option<Cache> {
        let [keys, values] = entry.slots.as_slice() else { return None };
        let same = keys.law == values.law && keys.heads == values.heads && keys.heads > 0;
        let typed = [keys, values].iter().all(|slot| {
            let each = slot.heads.saturating_mul(slot.width).saturating_mul(self.activation.bytes.get());
            each == slot.bytes
        });
        if !same || !typed || entry.nested {
            return None;
        }
        let kv = Kv { heads: keys.heads, key: keys.width, value: values.width };
        match keys.law {
            Law::Stepped { step } if step.get() == super::shape::CACHE_STEP => {
                Some(if entry.kind == "compressed" && self.unquantizable.is_some() {
                    Cache::Latent(kv)
                } else {
                    Cache::Full(kv)
                })
            }
            Law::Rotating { step, window } if step.get() == super::shape::CACHE_STEP => {
                Some(Cache::Rotating(kv, window))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::shape::Precision;

    fn document(caches: &str, order: &str) -> String {
        format!(
            r#"{{"schema":1,"family":"x","from":"weights","layers":4,"hidden":64,"heads":4,"intermediate":96,
            "vocabulary":128,"context":8192,"activation":{{"dtype":"bfloat16","bytes":2}},"batches":true,
            "unquantizable":null,"template":{{"file":"chat_template.jinja","variables":["messages"]}},
            "thinking":["<think>","</think>"],"weights":{{"bytes":1000,"tensors":3}},"exact":true,
            "caches":[{caches}],"order":{order}}}"#
        )
    }

    fn slot(name: &str, element: u64, more: &str, bytes: u64) -> String {
        format!(r#"{{"name":"{name}","dtype":"x","element":{element},{more},"bytes":{bytes}}}"#)
    }

    const STEPPED: &str = r#""heads":2,"width":32,"law":"stepped","step":256"#;

    #[test]
    fn each_kind_of_cache_is_added_up_by_its_rule() {
        let full = format!("{},{}", slot("keys", 2, STEPPED, 128), slot("values", 2, STEPPED, 128));
        let chunked = slot("keys", 2, r#""law":"chunked","step":256,"window":512"#, 10);
        let state =
            format!("{},{}", slot("0", 2, r#""law":"fixed""#, 60), slot("1", 4, r#""law":"fixed""#, 400));
        let groups = format!(
            "{},{}",
            slot("a", 4, r#""law":"quotient","step":4"#, 8),
            slot("b", 4, r#""law":"remainder","step":4"#, 16)
        );
        let entry =
            |kind: &str, slots: &str| format!(r#"{{"kind":"{kind}","nested":false,"slots":[{slots}]}}"#);
        let caches = [
            entry("full", &full),
            entry("chunked", &chunked),
            entry("recurrent", &state),
            entry("other", &groups),
            entry("none", ""),
        ]
        .join(",");
        let profile = Profile::parse(&document(&caches, "[0,0,1,2,3,4]")).unwrap();
        let shape = profile.shape();
        let plain = Precision { activation: 2, quantized: None };
        let at = |tokens| shape.kv(tokens, plain).0;
        assert_eq!(at(300), 2 * 256 * 512 + 10 * 512 + 460 + 8 * 75);
        assert_eq!(at(1203), 2 * 256 * 1280 + 10 * 768 + 460 + 8 * 300 + 16 * 3);
        assert!(shape.kv(1203, Precision { activation: 2, quantized: Some((4, 64, 0)) }).0 < at(1203));
        assert_eq!((shape.recurrent_layers(), shape.largest_state()), (1, 400));
        assert_eq!(profile.weights(Header::default()).bytes, Bytes(1000));
    }

    #[test]
    fn a_refusal_and_a_damaged_document_are_told_apart() {
        let refused =
            Profile::parse(r#"{"error":{"kind":"family","message":"mlx-lm 0.32.2 has no x"}}"#).unwrap_err();
        assert_eq!(
            (refused.kind, refused.to_string().as_str()),
            (RefusedKind::Family, "mlx-lm 0.32.2 has no x")
        );
        for damaged in [
            "",
            "{}",
            "[]",
            &document("", "[0]"),
            &document("", "[]").replace("\"layers\":4", "\"layers\":0"),
        ] {
            assert_eq!(Profile::parse(damaged).unwrap_err().kind, RefusedKind::Internal, "{damaged}");
        }
    }

    proptest! {
        #[test]
        fn no_law_overflows_or_is_less_for_more_tokens(
            step in 1_u64.., window: u64, tokens: u64, kind in 0..5,
        ) {
            let step = NonZeroU64::new(step).unwrap();
            let law = [
                Law::Stepped { step }, Law::Rotating { step, window }, Law::Window { window }, Law::Quotient { step }, Law::Fixed,
            ][usize::try_from(kind).unwrap()];
            prop_assert!(law.rows(tokens) <= law.rows(tokens.saturating_add(1)));
            let _ = Law::Chunked { step, window }.rows(tokens);
        }
    }
}
