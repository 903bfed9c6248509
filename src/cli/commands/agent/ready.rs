//! Waits for the supervisor to answer and for its models to be ready.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::api::client::{Client, ClientError};
use crate::api::{ModelStatus, StateName, Status};
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::render::status::state_word;
use crate::registry::Start;

/// How long a supervisor may take to answer once it has a process.
const ANSWER: Duration = Duration::from_secs(30);
/// Pause between two requests for the status.
const BETWEEN: Duration = Duration::from_millis(200);
/// How many lines of the log are quoted if it does not answer.
const TAIL: usize = 5;

/// Waits until the supervisor answers.
///
/// # Errors
/// It does not answer; the reason quotes the end of its log.
pub(super) fn supervisor(client: &Client, log: &Path) -> Result<Status, CliError> {
    let started = Instant::now();
    loop {
        match client.status() {
            Ok(status) if status.supervisor.is_some() => return Ok(status),
            Err(error @ (ClientError::Denied { .. } | ClientError::Schema { .. })) => {
                return Err(error.into());
            }
            _ if started.elapsed() < ANSWER => std::thread::sleep(BETWEEN),
            _ => return Err(silent(log)),
        }
    }
}

fn silent(log: &Path) -> CliError {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL)..];
    let why = if tail.is_empty() {
        format!("{} is empty: the program may not start at all", log.display())
    } else {
        format!("the end of {}:\n{}", log.display(), tail.join("\n"))
    };
    CliError::failed(format!("the supervisor was started but does not answer after {}s", ANSWER.as_secs()))
        .why(why)
        .hint("mlxctl doctor")
}

/// Waits until every always-on model is ready, printing each change of what it is doing.
///
/// # Errors
/// One of them failed for good, or `timeout` has passed.
pub(super) fn models(context: &Context, client: &Client, timeout: Duration) -> Result<(), CliError> {
    let started = Instant::now();
    let mut said = BTreeMap::new();
    loop {
        let status = client.status()?;
        let waiting: Vec<&ModelStatus> = status
            .models
            .iter()
            .filter(|model| model.start == Start::Always && model.state != StateName::Ready)
            .filter(|model| model.asleep_until.is_none())
            .collect();
        for model in status.models.iter().filter(|model| model.start == Start::Always) {
            let line = line(model);
            if said.get(&model.name) != Some(&line) {
                context.output.say(&line);
                said.insert(model.name.clone(), line);
            }
        }
        if let Some(failed) = waiting.iter().find(|model| model.state == StateName::Failed) {
            let error = CliError::failed(format!("the agent is running, but {} failed", failed.name));
            let error = error.why(failed.reason.as_deref().unwrap_or("no reason was given"));
            return Err(error.hint(failed.hint.as_deref().unwrap_or("mlxctl logs, mlxctl events")));
        }
        let Some(first) = waiting.first() else { return Ok(()) };
        if started.elapsed() >= timeout {
            let after = humantime::format_duration(timeout);
            return Err(CliError::failed(format!(
                "the agent is running, but {} is not ready after {after}",
                first.name
            ))
            .why(line(first))
            .hint("mlxctl status --watch"));
        }
        std::thread::sleep(BETWEEN);
    }
}

/// One line per model; in whole percent, so that a load changes it at most a hundred times.
fn line(model: &ModelStatus) -> String {
    let state = state_word(model.state);
    let progress = model.progress.map(|share| format!(" {:.0} %", share * 100.0)).unwrap_or_default();
    let reason = model.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{}: {state}{progress}{reason}", model.name)
}
