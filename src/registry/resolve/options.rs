//! The sub-tables that `[defaults]` and a model share: the model's own value, else the default's, else ours.

use std::time::Duration;

use super::Scope;
use crate::registry::Wired;
use crate::registry::notes::At;
use crate::registry::raw::{RawHealth, RawLimits, RawMemory, RawRestart, RawStop};
use crate::registry::{Health, Limits, ModelMemory, Restart, Start, Stop};
use crate::units::Bytes;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Where the value stands that counts.
pub(super) fn chosen<'a, T>(own: &'a Option<At<T>>, shared: &'a Option<At<T>>) -> Option<&'a At<T>> {
    own.as_ref().or(shared.as_ref())
}

/// The value that counts, if one was written.
pub(super) fn pick<T: Clone>(own: &Option<At<T>>, shared: &Option<At<T>>) -> Option<T> {
    chosen(own, shared).map(|at| at.value.clone())
}

pub(super) fn memory(own: &RawMemory, shared: &RawMemory) -> ModelMemory {
    ModelMemory {
        context: pick(&own.context, &shared.context),
        concurrency: pick(&own.concurrency, &shared.concurrency).unwrap_or(crate::registry::CONCURRENCY),
        kv_limit: pick(&own.kv_limit, &shared.kv_limit),
        cache_limit: pick(&own.cache_limit, &shared.cache_limit),
        ceiling: pick(&own.ceiling, &shared.ceiling),
        prompt_store: pick(&own.prompt_store, &shared.prompt_store).unwrap_or(Bytes::gb(20)),
        trim_after: pick(&own.trim_after, &shared.trim_after).unwrap_or(seconds(45)),
        forget_after: pick(&own.forget_after, &shared.forget_after).unwrap_or(seconds(1800)),
        yield_to_pressure: pick(&own.yield_to_pressure, &shared.yield_to_pressure).unwrap_or(false),
        wired: pick(&own.wired, &shared.wired).unwrap_or(Wired::Off),
    }
}

pub(super) fn health(scope: &Scope<'_>, own: &RawHealth, shared: &RawHealth) -> Health {
    let health = Health {
        load_timeout: pick(&own.load_timeout, &shared.load_timeout).unwrap_or(seconds(600)),
        interval: pick(&own.interval, &shared.interval).unwrap_or(seconds(10)),
        timeout: pick(&own.timeout, &shared.timeout).unwrap_or(seconds(5)),
        hang_after: pick(&own.hang_after, &shared.hang_after).unwrap_or(seconds(120)),
    };
    if let Some(written) = chosen(&own.hang_after, &shared.hang_after).filter(|at| at.value <= health.timeout)
    {
        let message = "`hang_after` is no longer than one check may take (`timeout`): a slow answer would count as a hang";
        scope.notes.wrong(written, message, "minutes are usual: a long prompt is busy, not dead");
    }
    health
}

pub(super) fn restart(scope: &Scope<'_>, own: &RawRestart, shared: &RawRestart, start: Start) -> Restart {
    let restart = Restart {
        enabled: pick(&own.enabled, &shared.enabled).unwrap_or(start == Start::Always),
        backoff_min: pick(&own.backoff_min, &shared.backoff_min).unwrap_or(seconds(1)),
        backoff_max: pick(&own.backoff_max, &shared.backoff_max).unwrap_or(seconds(60)),
        stable_after: pick(&own.stable_after, &shared.stable_after).unwrap_or(seconds(60)),
        max_crashes: pick(&own.max_crashes, &shared.max_crashes).unwrap_or(5),
        window: pick(&own.window, &shared.window).unwrap_or(seconds(600)),
    };
    if restart.backoff_min > restart.backoff_max {
        let written =
            chosen(&own.backoff_min, &shared.backoff_min).or(chosen(&own.backoff_max, &shared.backoff_max));
        let shown = humantime::format_duration;
        scope.notes.add(
            written.map(|at| at.span.clone()),
            format!(
                "`backoff_min` is {} and `backoff_max` {}",
                shown(restart.backoff_min),
                shown(restart.backoff_max)
            ),
            "the first wait is no longer than the longest one",
        );
    }
    restart
}

pub(super) fn stop(own: &RawStop, shared: &RawStop) -> Stop {
    Stop {
        drain: pick(&own.drain, &shared.drain).unwrap_or(seconds(30)),
        term: pick(&own.term, &shared.term).unwrap_or(seconds(120)),
    }
}

/// `cluster`: the model runs on several ranks, where two requests at once have ended every rank (mlx-lm 1737).
pub(super) fn limits(
    scope: &Scope<'_>,
    own: &RawLimits,
    shared: &RawLimits,
    memory: &ModelMemory,
    cluster: bool,
) -> Limits {
    let in_flight = chosen(&own.in_flight, &shared.in_flight);
    if let Some(written) = in_flight.filter(|at| at.value > memory.concurrency) {
        scope.notes.wrong(
            written,
            format!(
                "`in_flight` is {}, and memory is promised for {} requests at once (`memory.concurrency`)",
                written.value, memory.concurrency
            ),
            "raise memory.concurrency, or leave in_flight out",
        );
    }
    let context = memory.context.unwrap_or(u32::MAX);
    if let Some(written) = chosen(&own.max_tokens, &shared.max_tokens).filter(|at| at.value > context) {
        let message = format!(
            "`max_tokens` is {}, and the context ends at {context} (`memory.context`)",
            written.value
        );
        scope.notes.wrong(written, message, "prompt and answer share the context");
    }
    Limits {
        in_flight: in_flight.map_or(if cluster { 1 } else { memory.concurrency }, |at| at.value),
        queue: pick(&own.queue, &shared.queue).unwrap_or(64),
        queue_timeout: pick(&own.queue_timeout, &shared.queue_timeout).unwrap_or(seconds(120)),
        connections: pick(&own.connections, &shared.connections).unwrap_or(256),
        body: pick(&own.body, &shared.body).unwrap_or(Bytes::mb(16)),
        max_tokens: pick(&own.max_tokens, &shared.max_tokens),
        messages: pick(&own.messages, &shared.messages).unwrap_or(2000),
        read_timeout: pick(&own.read_timeout, &shared.read_timeout).unwrap_or(seconds(30)),
        remote_images: pick(&own.remote_images, &shared.remote_images).unwrap_or(false),
    }
}
