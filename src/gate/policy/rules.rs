//! What a request's body is checked against.

use std::collections::BTreeSet;

use super::contract::GateConfig;
use crate::registry::Preset;

/// The two endpoints of `mlx_lm.server` that generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
}

impl Endpoint {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// The names and limits that a body is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// What clients may call the model.
    pub accepted: &'a [String],
    /// Longest answer in tokens; requests for more are lowered to it.
    pub max_tokens: Option<u32>,
    /// Maximum number of messages in a chat.
    pub messages: u32,
    /// Longest prompt plus answer, in tokens.
    pub context: Option<u32>,
    /// Whether the backend enforces `context` itself, with the model's tokenizer.
    pub counted: bool,
    /// Longest answer in tokens if the request sets no limit.
    pub default_tokens: u32,
    /// Size of the vocabulary in tokens, if known.
    pub vocabulary: Option<u32>,
    /// Whether a request may name images for the server to fetch.
    pub remote_images: bool,
    /// Values for requests that do not set them, by the alias that they use.
    pub presets: &'a [Preset],
    /// What the model's chat template reads, besides what every template may be given; `None`: not known.
    pub variables: Option<&'a BTreeSet<String>>,
}

impl<'a> Rules<'a> {
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
