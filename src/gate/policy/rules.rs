//! What a request's body is held against.

use std::collections::BTreeSet;

use super::contract::GateConfig;
use crate::registry::Preset;

/// The two endpoints of `mlx_lm.server` that generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

impl Endpoint {
    /// Its path at the backend.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// What the body is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// What clients may call the model.
    pub accepted: &'a [String],
    /// Longest answer, tokens; a request that asks for more gets this.
    pub max_tokens: Option<u32>,
    /// Messages of one chat.
    pub messages: u32,
    /// Longest prompt plus answer, tokens.
    pub context: Option<u32>,
    /// Whether the backend holds prompts against it itself, with the model's tokenizer.
    pub counted: bool,
    /// Tokens of an answer whose request names no number.
    pub default_tokens: u32,
    /// Tokens that the model knows.
    pub vocabulary: Option<u32>,
    /// Whether remote images may be named.
    pub remote_images: bool,
    /// Values for requests that name none, by the alias that they use.
    pub presets: &'a [Preset],
    /// What the model's chat template reads besides what every template may be given; `None`: not known.
    pub variables: Option<&'a BTreeSet<String>>,
}

impl<'a> Rules<'a> {
    /// Those of one gate.
    pub(crate) fn of(config: &'a GateConfig) -> Self {
        Self {
            accepted: &config.accepted,
            max_tokens: config.limits.max_tokens,
            messages: config.limits.messages,
            context: config.context,
            counted: config.counted,
            default_tokens: config.default_tokens,
            vocabulary: config.vocabulary,
            remote_images: config.limits.remote_images,
            presets: &config.presets,
            variables: config.variables.as_ref(),
        }
    }
}
