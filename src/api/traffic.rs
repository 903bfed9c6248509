//! What is counted of requests: a part of `status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was asked with one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUsage {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Those of them that were not computed, but kept from an earlier prompt.
    pub cached_tokens: u64,
    /// Tokens of their answers.
    pub tokens: u64,
}

impl KeyUsage {
    /// Counts another one in.
    pub fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

/// What is counted of a model's requests, since the first supervisor of this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All that were accepted.
    pub requests: u64,
    /// Those of them that did not end well.
    pub errors: u64,
    /// Streamed chunks and counted tokens of answers.
    pub tokens: u64,
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Those of them that were not computed, but kept from an earlier prompt.
    #[serde(default)]
    pub cached_tokens: u64,
    /// By the names of their keys, where keys are asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, KeyUsage>,
    /// When counting began, RFC 3339, UTC; null where an earlier version began it.
    #[serde(default)]
    pub since: Option<String>,
}

impl Counts {
    /// These, after what was counted `before` them.
    pub fn after(mut self, before: &Self) -> Self {
        for (name, usage) in &before.keys {
            self.keys.entry(name.clone()).or_default().add(*usage);
        }
        Self {
            requests: self.requests.saturating_add(before.requests),
            errors: self.errors.saturating_add(before.errors),
            tokens: self.tokens.saturating_add(before.tokens),
            prompt_tokens: self.prompt_tokens.saturating_add(before.prompt_tokens),
            cached_tokens: self.cached_tokens.saturating_add(before.cached_tokens),
            keys: self.keys,
            since: match &before.since {
                None if before.requests == 0 => self.since,
                since => since.clone(),
            },
        }
    }
}

/// A model's requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Now.
    pub in_flight: u64,
    /// Since the first supervisor of this boot.
    #[serde(flatten)]
    pub counts: Counts,
    /// Over the last answers; null before the first.
    pub tokens_per_second: Option<f64>,
    /// Time to first token of the last answers, milliseconds.
    pub ttft_ms: Option<f64>,
}
