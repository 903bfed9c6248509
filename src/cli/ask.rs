//! One streamed chat completion through a gate, as any client asks for it.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::error::{CliError, Exit, root_cause};
use crate::bench::client::Events;
use crate::registry::{Model, Registry};

pub(super) struct Question<'a> {
    /// Base URL without a path: `http://127.0.0.1:8800`.
    pub address: &'a str,
    pub model: &'a str,
    pub text: &'a str,
    /// Sent as `Authorization: Bearer KEY`; `None`: no such header.
    pub key: Option<&'a str>,
    /// Sampling parameters to add to the request, such as `max_tokens`.
    pub settings: Value,
}

#[derive(Debug, Default)]
pub(super) struct Answer {
    pub text: String,
    /// `finish_reason` as the server gave it: `stop`, `length`.
    pub finish: Option<String>,
}

/// Sends the question and passes each piece of the answer to `piece`, until that returns `false`.
///
/// # Errors
/// Exit 75 if the gate is busy or the model is not ready, 1 otherwise; any error of `piece`.
pub(super) async fn ask(
    question: &Question<'_>,
    mut piece: impl FnMut(&str) -> Result<bool, CliError>,
) -> Result<Answer, CliError> {
    let failed = |error: reqwest::Error| {
        let why = root_cause(&error).unwrap_or_else(|| error.to_string());
        CliError::failed("the question was not answered").why(why)
    };
    let mut body = json!({
        "model": question.model, "stream": true, "messages": [{ "role": "user", "content": question.text }],
    });
    for (name, value) in question.settings.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    // Proxies in the environment are for other hosts, not for this machine.
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

/// The base URL of a model's gate, as seen from this machine.
pub(super) fn address(registry: &Registry, model: &Model) -> String {
    let host = registry.network.host;
    let host = if host.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { host };
    format!("http://{}", SocketAddr::new(host, model.port))
}

/// The bearer key in `$MLX_API_KEY`.
///
/// # Errors
/// The gate `asks` for a key and none is set; `command` is the one that the hint names.
pub(super) fn key(asks: bool, command: &str) -> Result<Option<String>, CliError> {
    let key = std::env::var("MLX_API_KEY").ok().filter(|key| !key.is_empty());
    if asks && key.is_none() {
        return Err(CliError::failed("the gate requires a key")
            .hint(format!("MLX_API_KEY=… mlxctl {command} …      with a key from `mlxctl key add NAME`")));
    }
    Ok(key)
}

/// The error for a refusal, with the gate's own message as the reason.
fn refused(status: u16, body: &str) -> CliError {
    let document: Value = serde_json::from_str(body).unwrap_or_default();
    let said = document["error"]["message"].as_str().unwrap_or(body);
    let exit = if matches!(status, 429 | 503) { Exit::Refused } else { Exit::Failed };
    let error = CliError::new(exit, "the question was not answered").why(said);
    match status {
        401 => error.hint("MLX_API_KEY=… mlxctl chat …      with a key from `mlxctl key add NAME`"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_quotes_the_gates_message() {
        let body = r#"{"error":{"message":"model '70b' is not running"}}"#;
        let error = refused(503, body);
        assert_eq!((error.exit, error.why.as_deref()), (Exit::Refused, Some("model '70b' is not running")));
        assert!(refused(401, body).hint.is_some_and(|hint| hint.contains("MLX_API_KEY")));
        assert_eq!(refused(400, "not JSON").why.as_deref(), Some("not JSON"));
    }
}
