//! One streamed completion, with the times at which its pieces arrived.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::speed;

/// How long a server may be silent: a long prompt takes minutes until its first token.
const SILENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
pub(crate) struct Target {
    client: reqwest::Client,
    url: String,
    model: Option<String>,
    key: Option<String>,
    /// Ids of tokens that would end an answer early; the request forbids them.
    never: BTreeSet<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// As counted by the server, cached ones included.
    pub prompt_tokens: u64,
    /// How many of those came from its cache.
    pub cached_tokens: u64,
    /// Tokens of the answer, as counted by the server.
    pub tokens: u64,
    pub first: Instant,
    pub last: Instant,
    /// From sending to the first piece of text.
    pub ttft: Duration,
}

impl Sample {
    /// Tokens per second between the first and the last; `None` if the answer is too short to tell.
    pub(crate) fn rate(&self) -> Option<f64> {
        speed::per_second(self.tokens.saturating_sub(1), self.last.duration_since(self.first))
    }
}

#[expect(clippy::cast_precision_loss, reason = "no answer has 2⁵³ tokens")]
pub(crate) fn rate(count: u64, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("the request failed")]
    Http(#[from] reqwest::Error),
    #[error("{status}: {text}")]
    Refused { status: u16, text: String },
    /// No text, or no count of tokens.
    #[error("the answer was empty or ended without its count of tokens")]
    Incomplete,
}

impl Target {
    /// `url` has no path; `model` is its name on that server, `None` if the server serves only one; `never` are ids of
    /// tokens that must not be chosen.
    pub(crate) fn new(
        url: String,
        model: Option<String>,
        key: Option<String>,
        never: BTreeSet<u32>,
    ) -> Result<Self, AskError> {
        // Proxies in the environment are for other hosts, not for this machine.
        let client = reqwest::Client::builder().no_proxy().read_timeout(SILENCE).build()?;
        Ok(Self { client, url, model, key, never })
    }

    /// Has the server continue `prompt` by `tokens` tokens.
    pub(crate) async fn ask(&self, prompt: &str, tokens: u32) -> Result<Sample, AskError> {
        let mut body = json!({
            "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": true,
            "stream_options": { "include_usage": true },
        });
        if let Some(model) = &self.model {
            body["model"] = model.as_str().into();
        }
        if !self.never.is_empty() {
            body["logit_bias"] = self
                .never
                .iter()
                .map(|id| (id.to_string(), json!(-100)))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        let mut request = self.client.post(format!("{}/v1/completions", self.url)).json(&body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let sent = Instant::now();
        let response = request.send().await?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(AskError::Refused { status, text: message(&response.text().await?) });
        }
        let (mut seen, mut events) = (Seen::default(), Events::of(response));
        while let Some(event) = events.next().await? {
            seen.event(&event, Instant::now())?;
        }
        seen.sample(sent)
    }
}

/// The JSON documents of a streamed answer, as they arrive; other lines are skipped.
pub(crate) struct Events {
    response: reqwest::Response,
    pending: Vec<u8>,
}

impl Events {
    pub(crate) fn of(response: reqwest::Response) -> Self {
        Self { response, pending: Vec::new() }
    }

    /// The next document; `None`: the stream is over.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) async fn next(&mut self) -> reqwest::Result<Option<Value>> {
        loop {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                if let Some(event) = event(&line) {
                    return Ok(Some(event));
                }
            }
            let Some(chunk) = self.response.chunk().await? else { return Ok(None) };
            self.pending.extend_from_slice(&chunk);
        }
    }
}

fn event(line: &[u8]) -> Option<Value> {
    serde_json::from_slice(line.strip_prefix(b"data: ")?).ok()
}

/// What a stream has contained so far.
#[derive(Default)]
struct Seen {
    first: Option<Instant>,
    last: Option<Instant>,
    usage: Option<Value>,
}

impl Seen {
    fn event(&mut self, event: &Value, now: Instant) -> Result<(), AskError> {
        if let Some(error) = event.get("error") {
            return Err(AskError::Refused {
                status: 200,
                text: message(&json!({ "error": error }).to_string()),
            });
        }
        if event["usage"].is_object() {
            self.usage = Some(event["usage"].clone());
        }
        let choice = &event["choices"][0];
        if choice["text"].as_str().is_some_and(|text| !text.is_empty()) || choice["finish_reason"].is_string()
        {
            self.first = self.first.or(Some(now));
            self.last = Some(now);
        }
        Ok(())
    }

    fn sample(self, sent: Instant) -> Result<Sample, AskError> {
        let (Some(first), Some(last), Some(usage)) = (self.first, self.last, self.usage) else {
            return Err(AskError::Incomplete);
        };
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        Ok(Sample {
            prompt_tokens: number(&usage["prompt_tokens"]),
            cached_tokens: number(&usage["prompt_tokens_details"]["cached_tokens"]),
            tokens: number(&usage["completion_tokens"]),
            first,
            last,
            ttft: first.duration_since(sent),
        })
    }
}

/// `error.message`, or `error`, or the first 300 characters of the text.
fn message(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let error = &value["error"];
    let said = error["message"].as_str().or_else(|| error.as_str());
    said.map_or_else(|| text.chars().take(300).collect(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_of_data() {
        assert!(event(b": keepalive 1/2\n").is_none() && event(b"data: [DONE]\n").is_none());
        assert_eq!(event(b"data: {\"choices\":[]}\n").unwrap()["choices"], json!([]));
    }

    #[test]
    fn times_are_those_of_text_and_counts_those_of_the_server() {
        let (start, mut seen) = (Instant::now(), Seen::default());
        let at = |ms| start + Duration::from_millis(ms);
        let text = |text: &str| json!({ "choices": [{ "text": text }] });
        seen.event(&text(""), at(6)).unwrap();
        seen.event(&text("a"), at(10)).unwrap();
        seen.event(&text("b"), at(110)).unwrap();
        let usage = json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 11,
            "prompt_tokens_details": { "cached_tokens": 3 } } });
        seen.event(&usage, at(200)).unwrap();
        let sample = seen.sample(start).unwrap();
        assert_eq!((sample.prompt_tokens, sample.cached_tokens, sample.tokens), (7, 3, 11));
        assert_eq!(sample.ttft, Duration::from_millis(10));
        assert_eq!(sample.rate(), Some(100.0));
    }

    #[test]
    fn an_error_in_the_stream_is_an_error_and_an_empty_answer_is_none() {
        let died = json!({ "error": { "message": "it died" } });
        let error = Seen::default().event(&died, Instant::now()).unwrap_err();
        assert_eq!(error.to_string(), "200: it died");
        assert!(Seen::default().sample(Instant::now()).is_err());
    }
}
