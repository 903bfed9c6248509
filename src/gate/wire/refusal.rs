//! Error answers: OpenAI's error object, and a status that its libraries know.

use std::time::Duration;

use serde_json::json;

use super::reply::Reply;

/// Maximum number of characters of a client's own text that an answer repeats, so that a long value does not come back
/// whole.
const SHOWN: usize = 128;

/// The beginning of a client's text, as much as an answer may repeat.
pub(crate) fn shown(text: &str) -> &str {
    first(text, SHOWN)
}

pub(crate) fn first(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// Why a request is not served. There is no `Display`: clients read JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: u16,
    /// `error.code`: a stable name for programs.
    pub code: &'static str,
    /// `error.param`: the field at fault, if there is one.
    pub param: Option<String>,
    /// `error.message`: what happened, why, and what to do.
    pub message: String,
    /// `Retry-After`; `None` if sending the same request again would not help.
    pub retry_after: Option<Duration>,
    /// `error.state`: what the model is doing, if that is the reason: `offline`, `loading`, …
    pub state: Option<&'static str>,
    /// `Allow`: the method that the path accepts.
    pub allow: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, code, param: None, message, retry_after: None, state: None, allow: None }
    }

    /// 400, with the field at fault. A field name that the client made up may be long: it is cut, in `message` too.
    pub(crate) fn invalid(param: Option<&str>, message: String) -> Self {
        let short = param.map(shown);
        let message = match (param, short) {
            (Some(param), Some(short)) if short.len() < param.len() => message.replace(param, short),
            _ => message,
        };
        Self { param: short.map(str::to_owned), ..Self::new(400, "invalid_request", message) }
    }

    /// 404 for a model that is not served here.
    pub(crate) fn unknown_model(asked: &str, accepted: &[String]) -> Self {
        let asked = shown(asked);
        let message = format!("no model '{asked}' here; this address serves {}", accepted.join(", "));
        Self { param: Some("model".to_owned()), ..Self::new(404, "model_not_found", message) }
    }

    /// 503, which the client should retry after `retry_after`.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(503, code, message) }
    }

    /// `error.type`: OpenAI's name for the class of error.
    pub(crate) fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The error object as OpenAI defines it: `{"error": {…}}`.
    pub(crate) fn body(&self) -> serde_json::Value {
        let mut error = json!({
            "message": self.message, "type": self.kind(), "param": self.param, "code": self.code,
        });
        if let Some(state) = self.state {
            error["state"] = state.into();
        }
        if let Some(after) = self.retry_after {
            error["retry_after_seconds"] = seconds(after).into();
        }
        json!({ "error": error })
    }

    pub(crate) fn reply(&self) -> Reply {
        let mut reply = Reply::json(self.status, &self.body());
        if let Some(after) = self.retry_after {
            reply.header("retry-after", &seconds(after).to_string());
        }
        if matches!(self.state, Some("offline" | "asleep" | "failed"))
            || (self.status >= 500 && self.retry_after.is_none())
        {
            // Otherwise OpenAI's libraries would retry and keep their user waiting.
            reply.header("x-should-retry", "false");
        }
        if let Some(allow) = self.allow {
            reply.header("allow", allow);
        }
        if self.status == 401 {
            reply.header("www-authenticate", "Bearer");
        }
        reply
    }

    /// The last event of a stream that has already begun.
    pub(crate) fn event(&self) -> Vec<u8> {
        format!("data: {}\n\n", self.body()).into_bytes()
    }
}

/// Whole seconds, rounded up, at least one: the unit of `Retry-After`.
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_own_text_is_repeated_up_to_128_characters() {
        let name = "\u{e4}".repeat(15_000);
        let refusal =
            Refusal::invalid(Some(&name), format!("'{name}' is not accepted here; '{name}' is too long"));
        let cut = "\u{e4}".repeat(128);
        assert_eq!(refusal.param.as_deref(), Some(&*cut));
        assert_eq!(refusal.message, format!("'{cut}' is not accepted here; '{cut}' is too long"));
        assert_eq!(Refusal::invalid(Some("stop"), "'stop' is".to_owned()).message, "'stop' is");
        assert!(Refusal::unknown_model(&name, &[]).message.chars().count() < 200);
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_millis(1001)), 2);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
    }
}
