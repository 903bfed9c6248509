//! Counters of requests and tokens: a part of `status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUsage {
    /// Requests that ended, successfully or not.
    pub requests: u64,
    pub prompt_tokens: u64,
    /// Prompt tokens that were cached from an earlier prompt, not computed.
    pub cached_tokens: u64,
    pub tokens: u64,
}

impl KeyUsage {
    /// Adds every counter; saturates.
    pub fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

/// A model's counters since the first supervisor of this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Streamed chunks and counted tokens of answers.
    pub tokens: u64,
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Prompt tokens that were cached from an earlier prompt, not computed.
    #[serde(default)]
    pub cached_tokens: u64,
    /// By the names of keys; empty unless keys are required.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, KeyUsage>,
    /// When counting began, RFC 3339 in UTC; null if an earlier version began it.
    #[serde(default)]
    pub since: Option<String>,
}

impl Counts {
    /// The sum of these and the earlier counts in `before`.
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

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    pub in_flight: u64,
    /// Since the first supervisor of this boot.
    #[serde(flatten)]
    pub counts: Counts,
    /// Moving average over recent answers; null before the first.
    pub tokens_per_second: Option<f64>,
    /// Time to first token, milliseconds: a moving average over recent answers.
    pub ttft_ms: Option<f64>,
}
