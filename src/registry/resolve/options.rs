//! The sub-tables that `[defaults]` and a model share, as merged by `RawOptions::over`.

use super::Scope;
use crate::registry::keys::{RawHealth, RawLimits, RawRestart};
use crate::registry::{Health, Limits, ModelMemory, Restart, Start};

pub(super) fn health(scope: &Scope<'_>, raw: &RawHealth) -> Health {
    let health = raw.valid();
    if let Some(written) = raw.hang_after.as_ref().filter(|at| at.value <= health.timeout) {
        let message = "`hang_after` must be longer than one check may take (`timeout`), or a slow answer would count as a hang";
        scope.notes.wrong(
            written,
            message,
            "use minutes: a backend that computes a long prompt is busy, not hung",
        );
    }
    health
}

pub(super) fn restart(scope: &Scope<'_>, raw: &RawRestart, start: Start) -> Restart {
    let restart = raw.valid(start);
    if restart.backoff_min > restart.backoff_max {
        let written = raw.backoff_min.as_ref().or(raw.backoff_max.as_ref());
        let shown = humantime::format_duration;
        scope.notes.add(
            written.map(|at| at.span.clone()),
            format!(
                "`backoff_min` is {} and `backoff_max` {}",
                shown(restart.backoff_min),
                shown(restart.backoff_max)
            ),
            "`backoff_min` must not exceed `backoff_max`",
        );
    }
    restart
}

/// `cluster`: whether the model runs on several ranks, where two concurrent requests have killed every rank (mlx-lm
/// 1737).
pub(super) fn limits(scope: &Scope<'_>, raw: &RawLimits, memory: &ModelMemory, cluster: bool) -> Limits {
    if let Some(written) = raw.in_flight.as_ref().filter(|at| at.value > memory.concurrency) {
        scope.notes.wrong(
            written,
            format!(
                "`in_flight` is {}, but memory is reserved for {} concurrent requests (`memory.concurrency`)",
                written.value, memory.concurrency
            ),
            "raise memory.concurrency, or leave in_flight out",
        );
    }
    let context = memory.context.unwrap_or(u32::MAX);
    if let Some(written) = raw.max_tokens.as_ref().filter(|at| at.value > context) {
        let message = format!(
            "`max_tokens` is {}, but the context is only {context} (`memory.context`)",
            written.value
        );
        scope.notes.wrong(written, message, "prompt and answer share the context");
    }
    raw.valid(if cluster { 1 } else { memory.concurrency })
}
