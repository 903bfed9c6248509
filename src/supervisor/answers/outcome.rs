//! Outcomes of commands as answers.

use std::time::Duration;

use crate::api::{ApiError, CommandDone, ErrorCode, ModelStatus, StartRequest};
use crate::lifecycle::{FailureKind, Managed, Name, Outcome, State};
use crate::registry::{Model, Start, UnknownModel};
use crate::units::Bytes;

/// The outcome of a command for its asker: whether it did anything, and a sentence.
type Told = (bool, String);

/// The answer to a command. `managed` and `status`: the model as it is now.
pub(crate) fn done(
    name: &Name,
    verb: &str,
    outcome: Outcome,
    managed: Option<&Managed>,
    status: Option<ModelStatus>,
) -> Result<CommandDone, ApiError> {
    let (changed, text) = told(name, verb, outcome, managed)?;
    match status {
        Some(model) => Ok(CommandDone { model, changed, text }),
        None => Err(no_longer(name)),
    }
}

fn told(name: &Name, verb: &str, outcome: Outcome, managed: Option<&Managed>) -> Result<Told, ApiError> {
    let error = |code, message: String, hint: Option<String>| Err(ApiError { code, message, hint });
    match outcome {
        Outcome::Ready { changed: false } => Ok((false, format!("{name} is ready already"))),
        Outcome::Ready { changed: true } => Ok((true, format!("{name} is ready"))),
        Outcome::Granted => Ok((true, format!("{name} is starting"))),
        Outcome::Down { changed: false } => Ok((false, format!("{name} is stopped already"))),
        Outcome::Down { changed: true } => Ok((true, proof(name, managed))),
        Outcome::Failed(failure) => {
            let code = match failure.kind {
                FailureKind::Refused => ErrorCode::Refused,
                _ => ErrorCode::Failed,
            };
            let detail = failure.detail.map(|detail| format!("\n{detail}")).unwrap_or_default();
            error(code, format!("cannot {verb} {name}: {}{detail}", failure.text), failure.hint)
        }
        Outcome::Superseded(why) => {
            error(ErrorCode::Refused, format!("{name} was not started: {}", why.text()), None)
        }
        Outcome::TimedOut => {
            let hint =
                format!("it is still loading: mlxctl status shows its progress, mlxctl stop {name} ends it");
            error(ErrorCode::Timeout, format!("{name} is not ready yet"), Some(hint))
        }
        Outcome::Unknown => Err(no_longer(name)),
    }
}

fn no_longer(name: &Name) -> ApiError {
    let message = format!("{name} is no longer in the registry");
    ApiError { code: ErrorCode::UnknownModel, message, hint: None }
}

/// Says that a stopped model is really gone.
fn proof(name: &Name, managed: Option<&Managed>) -> String {
    match managed.map(|managed| &managed.state) {
        Some(State::Stopped { .. } | State::Failed { .. }) | None => {
            format!("{name} is stopped: its process group is gone and its port is free")
        }
        Some(state) => {
            let state = format!("{:?}", state.name()).to_lowercase();
            format!("that run of {name} is gone; another command has made the model {state} again")
        }
    }
}

/// The answer to a command that freed memory or disk space.
pub(crate) fn freed(
    name: &Name,
    freed: Bytes,
    text: String,
    status: Option<ModelStatus>,
) -> Result<CommandDone, ApiError> {
    let model = status.ok_or_else(|| failed(format!("{name} is gone")))?;
    Ok(CommandDone { model, changed: freed > Bytes::ZERO, text })
}

pub(crate) fn failed(message: String) -> ApiError {
    ApiError { code: ErrorCode::Failed, message, hint: None }
}

pub(crate) fn not_running(name: &Name) -> ApiError {
    ApiError { code: ErrorCode::NotRunning, message: format!("{name} is not running"), hint: None }
}

pub(crate) fn unknown(unknown: &UnknownModel) -> ApiError {
    let hint = unknown.nearest.as_ref().map(|nearest| format!("did you mean `{nearest}`?"));
    ApiError { code: ErrorCode::UnknownModel, message: unknown.to_string(), hint }
}

/// The answer to commands during a hand-over.
pub(crate) fn being_replaced() -> ApiError {
    let message = "the supervisor is being replaced by another one".to_owned();
    ApiError { code: ErrorCode::Refused, message, hint: Some("repeat the command in a moment".to_owned()) }
}

/// The answer to a reload of an invalid registry.
pub(crate) fn not_taken_in(problem: &str) -> ApiError {
    ApiError {
        code: ErrorCode::BadRequest,
        message: format!("the registry was not reloaded, the previous version stays in effect\n{problem}"),
        hint: Some("mlxctl check".into()),
    }
}

/// The time that a start asks for with `--for`; `None`: none.
///
/// # Errors
/// `for_seconds` is not a positive time, or the model is always-on.
pub(crate) fn lent(model: &Model, request: &StartRequest) -> Result<Option<Duration>, ApiError> {
    let refuse = |message: String, hint: &str| {
        Err(ApiError { code: ErrorCode::BadRequest, message, hint: Some(hint.to_owned()) })
    };
    let Some(seconds) = request.for_seconds else { return Ok(None) };
    let Some(time) = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()) else {
        return refuse(format!("`for_seconds` is {seconds}"), "a number of seconds above 0");
    };
    if model.start == Start::Always {
        let message = format!("{} is always-on and does not stop by itself", model.name);
        return refuse(message, "leave --for out, or make the model `start = \"manual\"`");
    }
    Ok(Some(time))
}
