//! The cache profile: what mlx_lm itself says about a model's memory, as written by `src/python/profile.py`. Where
//! there is one, it replaces the rules of thumb and the file sizes.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use serde::Deserialize;

use super::cache::Cache;
use super::shape::{MOST_LAYERS, Shape};
use super::weights::Header;
use crate::units::Bytes;

/// The profile of one model under one set of versions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Profile {
    pub family: String,
    /// What the size of the weights was taken from.
    #[serde(rename = "from")]
    pub source: Source,
    /// Layers, with or without a cache.
    pub layers: NonZeroU64,
    /// Width of the residual stream; 0: the configuration does not name it.
    pub hidden: u64,
    pub heads: u64,
    /// Width of a dense MLP, or of the experts that one token passes together.
    pub intermediate: u64,
    pub vocabulary: u64,
    /// Longest sequence that the model was trained for, tokens.
    pub context: Option<u64>,
    /// The type of keys and values.
    pub activation: Activation,
    /// Whether the server processes several requests together (without a draft model and quantised caches).
    pub batches: bool,
    /// Why `--kv-bits` fails in the first request; `None`: it works.
    pub unquantizable: Option<String>,
    /// The chat template; `None`: there is none.
    pub template: Option<Template>,
    /// As served: FP8 expanded, without tensors that mlx_lm drops.
    pub weights: Weights,
    pub caches: Vec<Cache>,
    /// Whether every rule held at every length tried; otherwise some are upper bounds.
    pub exact: bool,
    /// What each rank of its cluster keeps, rank 0 first; empty: not asked for.
    #[serde(default)]
    pub shares: Vec<Share>,
}

/// What one rank keeps of a divided model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Share {
    pub layers: NonZeroU64,
    pub weights: Weights,
    pub caches: Vec<Cache>,
}

/// What the size of the weights was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The files, as mlx_lm loads them.
    Weights,
    Config,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Activation {
    /// As mlx_lm names it: `bfloat16`, `float32`.
    pub dtype: String,
    /// Bytes per element, 2 or 4.
    pub bytes: NonZeroU64,
}

/// A chat template, parsed but not run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Template {
    pub file: String,
    /// The variables that it reads, by static analysis.
    #[serde(default)]
    pub variables: BTreeSet<String>,
    /// Why it cannot be parsed; `None`: it can.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Weights {
    pub bytes: Bytes,
    pub tensors: usize,
}

/// Why there is no profile: mlx_lm cannot serve this model, or the probe failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub kind: RefusedKind,
    /// One sentence, shown to the user.
    pub message: String,
}

/// The kind of a refusal, as the probe names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusedKind {
    /// `config.json` does not describe a model.
    Config,
    /// The installed mlx_lm lacks this family.
    Family,
    /// mlx_lm fails to build a model from this configuration.
    Build,
    /// mlx_lm fails to load these weights.
    Weights,
    /// The model ships code of its own, or tried to run some.
    Code,
    /// The probe took too long or too much memory.
    Limit,
    /// mlx_lm cannot divide the model over these ranks.
    Ranks,
    /// The probe itself failed, or wrote a damaged document.
    Internal,
}

impl Template {
    /// The variables that it reads; `None`: it cannot be parsed.
    pub fn read(self) -> Option<BTreeSet<String>> {
        self.error.is_none().then_some(self.variables)
    }
}

impl Profile {
    /// Parses the probe's document.
    ///
    /// # Errors
    /// The probe's own refusal; [`RefusedKind::Internal`] for a document that cannot be parsed or contradicts itself.
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
            // A layer may have several caches.
            Ok(Document::Profile(profile))
                if profile.all_caches().all(|caches| {
                    caches.iter().map(|cache| cache.count).fold(0, u64::saturating_add) <= 8 * MOST_LAYERS
                }) && profile.layers.get() <= MOST_LAYERS =>
            {
                Ok(*profile)
            }
            Ok(_) => Err(internal("the profile contradicts itself".to_owned())),
            Err(error) => Err(internal(format!("the profile cannot be read: {error}"))),
        }
    }

    fn all_caches(&self) -> impl Iterator<Item = &Vec<Cache>> {
        std::iter::once(&self.caches).chain(self.shares.iter().map(|share| &share.caches))
    }

    pub fn shape(&self) -> Shape {
        Shape {
            family: self.family.clone(),
            layers: self.layers,
            hidden: self.hidden,
            heads: self.heads.max(1),
            intermediate: self.intermediate,
            vocab: self.vocabulary,
            context: self.context.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)),
            activation: self.activation.bytes.get(),
            caches: self.caches.clone(),
            quantizes: self.unquantizable.is_none(),
            batches: self.batches,
        }
    }

    /// The weights as served; those of `files` where the profile was made from `config.json` alone.
    pub fn weights(&self, files: Header) -> Header {
        match self.source {
            Source::Config => files,
            Source::Weights => self.weights.over(files),
        }
    }
}

impl Weights {
    /// Replaces number and bytes in the header of the files.
    pub fn over(self, files: Header) -> Header {
        Header { tensors: self.tensors, bytes: self.bytes, ..files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(caches: &str) -> String {
        format!(
            r#"{{"schema":1,"family":"x","from":"weights","layers":4,"hidden":64,"heads":4,"intermediate":96,
            "vocabulary":128,"context":8192,"activation":{{"dtype":"bfloat16","bytes":2}},"batches":true,
            "unquantizable":null,"template":{{"file":"chat_template.jinja","variables":["messages"]}},
            "weights":{{"bytes":1000,"tensors":3}},"exact":true,
            "caches":[{caches}]}}"#
        )
    }

    fn slot(name: &str, element: u64, more: &str, bytes: u64) -> String {
        format!(r#"{{"name":"{name}","dtype":"x","element":{element},{more},"bytes":{bytes}}}"#)
    }

    const STEPPED: &str = r#""heads":2,"width":32,"law":"stepped","step":256"#;

    #[test]
    fn every_kind_of_cache_is_summed_by_its_rule() {
        let full = format!("{},{}", slot("keys", 2, STEPPED, 128), slot("values", 2, STEPPED, 128));
        let chunked = slot("keys", 2, r#""law":"chunked","step":256,"window":512"#, 10);
        let state =
            format!("{},{}", slot("0", 2, r#""law":"fixed""#, 60), slot("1", 4, r#""law":"fixed""#, 400));
        let groups = format!(
            "{},{}",
            slot("a", 4, r#""law":"quotient","step":4"#, 8),
            slot("b", 4, r#""law":"remainder","step":4"#, 16)
        );
        let entry = |kind: &str, count: u64, slots: &str| {
            format!(r#"{{"kind":"{kind}","nested":false,"count":{count},"slots":[{slots}]}}"#)
        };
        let caches = [
            entry("full", 2, &full),
            entry("chunked", 1, &chunked),
            entry("recurrent", 1, &state),
            entry("other", 1, &groups),
            entry("none", 1, ""),
        ]
        .join(",");
        let profile = Profile::parse(&document(&caches)).unwrap();
        let shape = profile.shape();
        let at = |tokens| shape.kv(tokens, None).0;
        assert_eq!(at(300), 2 * 256 * 512 + 10 * 512 + 460 + 8 * 75);
        assert_eq!(at(1203), 2 * 256 * 1280 + 10 * 768 + 460 + 8 * 300 + 16 * 3);
        assert!(shape.kv(1203, Some((4, 64, 0))).0 < at(1203));
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
        let endless = r#"{"kind":"none","nested":false,"count":18446744073709551615,"slots":[]}"#;
        for damaged in
            ["", "{}", "[]", &document(endless), &document("").replace("\"layers\":4", "\"layers\":0")]
        {
            assert_eq!(Profile::parse(damaged).unwrap_err().kind, RefusedKind::Internal, "{damaged}");
        }
    }
}
