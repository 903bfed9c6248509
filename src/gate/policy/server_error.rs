//! What an error of `mlx_lm.server` means. Pure.

use crate::gate::wire::{Refusal, first};

/// Maximum characters of an error of the model server that an answer repeats.
const SAID: usize = 500;

/// An error of the server, classified. It answers 404 to whatever goes wrong in generation, with a plain string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerError {
    /// The generation thread is dead, which is the same as no answer.
    Dead(String),
    /// To be passed on to the client.
    Refused(Refusal),
}

/// OpenAI's error code for a prompt that does not fit.
pub(crate) const CONTEXT: &str = "context_length_exceeded";

/// Classifies an answer that is not a 200.
pub(crate) fn from_server(status: u16, body: &[u8]) -> ServerError {
    let text = serde_json::from_slice::<serde_json::Value>(body).ok();
    let error = text.as_ref().and_then(|value| value.get("error"));
    if let Some(said) = error.and_then(|error| error.get("message")?.as_str())
        && error.and_then(|error| error.get("code")?.as_str()) == Some(CONTEXT)
    {
        // This one is the launcher's: the server has no limit.
        return ServerError::Refused(Refusal {
            code: CONTEXT,
            ..Refusal::invalid(Some("messages"), said.to_owned())
        });
    }
    let message = error
        .and_then(serde_json::Value::as_str)
        .map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), str::to_owned);
    let message = first(&message, SAID).to_owned();
    if message.contains("generation thread died") {
        return ServerError::Dead(message);
    }
    let lower = message.to_lowercase();
    let server_fault = status >= 500
        || matches!(status, 403 | 411)
        || ["memory", "metal", "[load]", "malloc", "no model"].iter().any(|word| lower.contains(word));
    if server_fault {
        let message = format!("the model server failed: {message}");
        return ServerError::Refused(Refusal::new(502, "model_server_error", message));
    }
    ServerError::Refused(Refusal::invalid(None, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_strings_of_the_server_become_error_objects_with_the_right_status() {
        let status = |status, body: &[u8]| match from_server(status, body) {
            ServerError::Dead(_) => 0,
            ServerError::Refused(refusal) => refusal.status,
        };
        assert_eq!(status(404, br#"{"error": "generation thread died"}"#), 0);
        assert_eq!(status(404, br#"{"error": "Only 'text' content type is supported."}"#), 400);
        assert_eq!(status(400, br#"{"error": "stream must be of type bool"}"#), 400);
        assert_eq!(status(404, br#"{"error": "[metal::malloc] Resource limit (499000) exceeded."}"#), 502);
        assert_eq!(status(404, b"Not Found"), 400);
        assert_eq!(status(500, b""), 502);
        let long = br#"{"error": {"message": "the prompt has 9 tokens: raise memory.context", "code": "context_length_exceeded"}}"#;
        match from_server(400, long) {
            ServerError::Refused(refusal) => assert_eq!((refusal.status, refusal.code), (400, CONTEXT)),
            ServerError::Dead(why) => panic!("{why}"),
        }
    }

    #[test]
    fn a_message_of_the_server_is_repeated_up_to_500_characters() {
        let said = "\u{e4}".repeat(15_000);
        let ServerError::Refused(refusal) = from_server(400, format!("{{\"error\":\"{said}\"}}").as_bytes())
        else {
            panic!("refused")
        };
        assert_eq!(refusal.message.chars().count(), SAID);
    }
}
