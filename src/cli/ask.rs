//! One streamed chat completion through a gate, as any client asks for it.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::error::{CliError, Exit};
use crate::bench::client::Events;
use crate::registry::{Model, Registry};

/// What is asked.
pub(super) struct Question<'a> {
    /// `http://address:port`
    pub address: &'a str,
    pub model: &'a str,
    pub text: &'a str,
    /// Bearer key.
    pub key: Option<&'a str>,
    /// Sampling values, `max_tokens` among them.
    pub settings: Value,
}

/// How an answer ended.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub text: String,
    /// The server's word: `stop`, `length`.
    pub finish: Option<String>,
}

/// Asks, and hands on each piece of the answer until `piece` says that it is enough.
///
/// # Errors
/// Exit 75 where the gate is busy or the model is not ready, 1 otherwise; what `piece` answers.
pub(super) async fn ask(
    question: &Question<'_>,
    mut piece: impl FnMut(&str) -> Result<bool, CliError>,
) -> Result<Answer, CliError> {
    let failed = |error: reqwest::Error| CliError::failed("the question was not answered").why(cause(&error));
    let mut body = json!({
        "model": question.model, "stream": true, "messages": [{ "role": "user", "content": question.text }],
    });
    for (name, value) in question.settings.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    // A proxy of the environment is for the world outside, not for this machine.
    let client = reqwest::Client::builder().no_proxy().build().map_err(failed)?;
    let mut request = client.post(format!("{}/v1/chat/completions", question.address)).json(&body);
    if let Some(key) = question.key {
        request = request.bearer_auth(key);
    }
    let response = request.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(refused(status, &response.text().await.map_err(failed)?));
    }
    let (mut answer, mut events) = (Answer::default(), Events::of(response));
    while let Some(event) = events.next().await.map_err(failed)? {
        if event["error"].is_object() {
            return Err(refused(status, &event.to_string()));
        }
        let choice = &event["choices"][0];
        if let Some(finish) = choice["finish_reason"].as_str() {
            answer.finish = Some(finish.to_owned());
        }
        if let Some(text) = choice["delta"]["content"].as_str() {
            answer.text.push_str(text);
            if !piece(text)? {
                break;
            }
        }
    }
    Ok(answer)
}

/// Where a model's gate is asked from this machine.
pub(super) fn address(registry: &Registry, model: &Model) -> String {
    let host = registry.network.host;
    let host = if host.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { host };
    format!("http://{}", SocketAddr::new(host, model.port))
}

/// The bearer key in `$MLX_API_KEY`.
///
/// # Errors
/// There is none, and the gate `asks` for one; `command`: what is to be called with it.
pub(super) fn key(asks: bool, command: &str) -> Result<Option<String>, CliError> {
    let key = std::env::var("MLX_API_KEY").ok().filter(|key| !key.is_empty());
    if asks && key.is_none() {
        return Err(CliError::failed("the gate asks for a key")
            .hint(format!("MLX_API_KEY=… mlxctl {command} …      with a key of `mlxctl key add NAME`")));
    }
    Ok(key)
}

/// What the gate said, in its own words.
fn refused(status: u16, body: &str) -> CliError {
    let document: Value = serde_json::from_str(body).unwrap_or_default();
    let said = document["error"]["message"].as_str().unwrap_or(body);
    let exit = if matches!(status, 429 | 503) { Exit::Refused } else { Exit::Failed };
    let error = CliError::new(exit, "the question was not answered").why(said);
    match status {
        401 => error.hint("MLX_API_KEY=… mlxctl chat …      with a key of `mlxctl key add NAME`"),
        _ => error,
    }
}

/// The innermost reason: "connection refused", not "error sending request".
fn cause(error: &reqwest::Error) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    sources.last().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_gates_words() {
        let body = r#"{"error":{"message":"model '70b' is not running"}}"#;
        let error = refused(503, body);
        assert_eq!((error.exit, error.why.as_deref()), (Exit::Refused, Some("model '70b' is not running")));
        assert!(refused(401, body).hint.is_some_and(|hint| hint.contains("MLX_API_KEY")));
        assert_eq!(refused(400, "not JSON").why.as_deref(), Some("not JSON"));
    }
}
