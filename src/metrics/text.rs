//! Renders a snapshot as text. Pure.

use std::fmt::Write as _;

use super::Snapshot;
use crate::api::{ModelStatus, StateName};
use crate::gate::{Counted, TrafficDetail};
use crate::host::Pressure;

const STATES: [StateName; 8] = [
    StateName::Stopped,
    StateName::Spawning,
    StateName::Loading,
    StateName::Ready,
    StateName::Draining,
    StateName::Stopping,
    StateName::Backoff,
    StateName::Failed,
];

/// The whole text. An unknown value has no line.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    supervisor(&mut page, snapshot);
    memory(&mut page, snapshot);
    models(&mut page, snapshot);
    gates(&mut page, snapshot);
    page.text
}

fn supervisor(page: &mut Page, snapshot: &Snapshot) {
    let status = &snapshot.status;
    if let Some(own) = &status.supervisor {
        page.family("mlxctl_build_info", "gauge", "Always 1; the label is the version.");
        page.line("mlxctl_build_info", &[("version", &own.version)], 1.0);
        page.family("mlxctl_uptime_seconds", "gauge", "Since the supervisor started.");
        page.line("mlxctl_uptime_seconds", &[], own.uptime_seconds);
        page.maybe(
            "mlxctl_footprint_bytes",
            "What the operating system charges the supervisor.",
            own.footprint_bytes,
        );
        page.family(
            "mlxctl_waiting_conditions",
            "gauge",
            "Conditions that the supervisor waits out, such as an address that is not there.",
        );
        page.line("mlxctl_waiting_conditions", &[], own.waiting_for.len() as f64);
        page.family(
            "mlxctl_registry_differs",
            "gauge",
            "1 while the registry on disk differs from the one in use.",
        );
        page.line("mlxctl_registry_differs", &[], f64::from(u8::from(own.config_problem.is_some())));
        page.family(
            "mlxctl_pace_ratio",
            "gauge",
            "Share of the time that the models work; below 1 while they yield to a program.",
        );
        page.line("mlxctl_pace_ratio", &[], f64::from(own.pace_percent.unwrap_or(100)) / 100.0);
        page.family(
            "mlxctl_holding",
            "gauge",
            "1 while requests wait until a program that the models yield to has ended.",
        );
        page.line("mlxctl_holding", &[], f64::from(u8::from(own.holding)));
    }
    page.family(
        "mlxctl_events_total",
        "counter",
        "Events in the history, by kind; refused, crashed and restart among them.",
    );
    for ((model, kind), count) in &snapshot.noted {
        page.line(
            "mlxctl_events_total",
            &[("model", model.as_deref().unwrap_or("")), ("kind", kind)],
            *count as f64,
        );
    }
}

fn memory(page: &mut Page, snapshot: &Snapshot) {
    let (host, budget) = (&snapshot.status.host, &snapshot.status.budget);
    page.family("mlxctl_host_memory_bytes", "gauge", "Installed memory.");
    page.line("mlxctl_host_memory_bytes", &[], host.memory_bytes as f64);
    page.maybe("mlxctl_host_available_bytes", "What a new process could take.", host.available_bytes);
    page.maybe("mlxctl_host_swap_used_bytes", "Swap in use.", host.swap_used_bytes);
    page.maybe("mlxctl_host_gpu_limit_bytes", "What the GPU may hold.", host.gpu_limit_bytes);
    page.family(
        "mlxctl_host_memory_pressure",
        "gauge",
        "As the system reports it: 0 normal, 1 warning, 2 critical.",
    );
    let pressure = match host.pressure {
        Pressure::Normal => 0.0,
        Pressure::Warning => 1.0,
        Pressure::Critical => 2.0,
    };
    page.line("mlxctl_host_memory_pressure", &[], pressure);
    page.family("mlxctl_budget_total_bytes", "gauge", "Memory that the budget divides.");
    page.line("mlxctl_budget_total_bytes", &[], budget.total_bytes as f64);
    page.family("mlxctl_budget_reserved_bytes", "gauge", "Reserves in effect.");
    page.line("mlxctl_budget_reserved_bytes", &[], budget.reserved_bytes as f64);
    page.family("mlxctl_budget_models_bytes", "gauge", "Granted to models.");
    page.line("mlxctl_budget_models_bytes", &[], budget.models_bytes as f64);
    page.family("mlxctl_budget_free_bytes", "gauge", "What is left, negative if the plan does not fit.");
    page.line("mlxctl_budget_free_bytes", &[], budget.free_bytes as f64);
    page.family("mlxctl_budget_reserve_active", "gauge", "1 while a reserve is in effect.");
    for reserve in &budget.reserves {
        page.line(
            "mlxctl_budget_reserve_active",
            &[("reserve", &reserve.name)],
            f64::from(u8::from(reserve.active)),
        );
    }
}

type Value = fn(&ModelStatus) -> Option<f64>;

fn models(page: &mut Page, snapshot: &Snapshot) {
    let models = &snapshot.status.models;
    page.family("mlxctl_model_state", "gauge", "1 for the state that a model is in, 0 for the others.");
    for model in models {
        for state in STATES {
            let name = format!("{state:?}").to_lowercase();
            let is = f64::from(u8::from(model.state == state));
            page.line("mlxctl_model_state", &[("model", &model.name), ("state", &name)], is);
        }
    }
    let values: [(&str, &str, Value); 11] = [
        ("mlxctl_model_uptime_seconds", "Since the backend was spawned.", |model| model.uptime_seconds),
        (
            "mlxctl_model_restarts",
            "Restarts after a crash, since it was last started by hand or with the supervisor.",
            |model| Some(f64::from(model.restarts)),
        ),
        ("mlxctl_model_answering", "1 while the backend completes tokens.", |model| {
            Some(f64::from(u8::from(model.health.answering)))
        }),
        ("mlxctl_model_estimate_bytes", "What admission reserves.", |model| {
            model.memory.estimate_bytes.map(|bytes| bytes as f64)
        }),
        ("mlxctl_model_weights_bytes", "Size of its weights.", |model| {
            model.memory.weights_bytes.map(|bytes| bytes as f64)
        }),
        ("mlxctl_model_footprint_bytes", "What the operating system charges the backend.", |model| {
            model.memory.footprint_bytes.map(|bytes| bytes as f64)
        }),
        ("mlxctl_model_footprint_peak_bytes", "Highest footprint seen in this run.", |model| {
            model.memory.peak_bytes.map(|bytes| bytes as f64)
        }),
        ("mlxctl_model_prompt_store_bytes", "Kept prompts on disk.", |model| {
            model.memory.prompt_store.as_ref().map(|store| store.bytes as f64)
        }),
        ("mlxctl_model_prompt_store_hits", "Requests of this run that began with a kept prompt.", |model| {
            model.memory.prompt_store.as_ref().map(|store| store.hits as f64)
        }),
        (
            "mlxctl_model_prompt_store_read_tokens",
            "Tokens that were read back instead of computed.",
            |model| model.memory.prompt_store.as_ref().map(|store| store.read_tokens as f64),
        ),
        ("mlxctl_model_tokens_per_second", "Decode speed of one answer, over the last ones.", |model| {
            model.traffic.tokens_per_second
        }),
    ];
    for (name, help, value) in values {
        page.family(name, "gauge", help);
        for model in models {
            if let Some(value) = value(model) {
                page.line(name, &[("model", &model.name)], value);
            }
        }
    }
}

type Count = fn(&TrafficDetail) -> u64;

fn gates(page: &mut Page, snapshot: &Snapshot) {
    page.family(
        "mlxctl_gate_responses_total",
        "counter",
        "Answers of the gate by HTTP status; 499: the client went away first.",
    );
    for (model, detail) in &snapshot.traffic {
        for (code, count) in &detail.codes {
            page.line(
                "mlxctl_gate_responses_total",
                &[("model", model), ("code", &code.to_string())],
                *count as f64,
            );
        }
    }
    if let Some(codes) = &snapshot.router {
        page.family(
            "mlxctl_router_responses_total",
            "counter",
            "Responses of the router itself rather than of a model, by HTTP status.",
        );
        for (code, count) in codes {
            page.line("mlxctl_router_responses_total", &[("code", &code.to_string())], *count as f64);
        }
    }
    let counters: [(&str, &str, &str, Count); 7] = [
        ("mlxctl_gate_requests_total", "counter", "Completion requests.", |detail| {
            detail.status.counts.requests
        }),
        ("mlxctl_gate_errors_total", "counter", "Completion requests that did not end well.", |detail| {
            detail.status.counts.errors
        }),
        ("mlxctl_gate_tokens_total", "counter", "Tokens of answers.", |detail| detail.status.counts.tokens),
        ("mlxctl_gate_prompt_tokens_total", "counter", "Tokens of prompts.", |detail| {
            detail.status.counts.prompt_tokens
        }),
        (
            "mlxctl_gate_cached_tokens_total",
            "counter",
            "Prompt tokens that were not computed, but kept from an earlier prompt.",
            |detail| detail.status.counts.cached_tokens,
        ),
        ("mlxctl_gate_leases", "gauge", "Requests at the backend.", |detail| detail.status.in_flight),
        (
            "mlxctl_gate_queued",
            "gauge",
            "Requests that wait for their turn, or for a model that is starting.",
            |detail| detail.queued,
        ),
    ];
    for (name, kind, help, value) in counters {
        page.family(name, kind, help);
        for (model, detail) in &snapshot.traffic {
            page.line(name, &[("model", model)], value(detail) as f64);
        }
    }
    page.family("mlxctl_gate_ttft_seconds", "histogram", "Time to first token of streamed answers.");
    for (model, detail) in &snapshot.traffic {
        page.histogram("mlxctl_gate_ttft_seconds", model, &detail.ttft);
    }
    page.family(
        "mlxctl_gate_per_token_seconds",
        "histogram",
        "Time between two tokens of streamed answers, at each answer's mean.",
    );
    for (model, detail) in &snapshot.traffic {
        page.histogram("mlxctl_gate_per_token_seconds", model, &detail.per_token);
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    fn maybe(&mut self, name: &str, help: &str, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.family(name, "gauge", help);
            self.line(name, &[], bytes as f64);
        }
    }

    fn histogram(&mut self, name: &str, model: &str, counted: &Counted) {
        let bucket = format!("{name}_bucket");
        for (bound, count) in &counted.buckets {
            self.line(&bucket, &[("model", model), ("le", &bound.to_string())], *count as f64);
        }
        self.line(&bucket, &[("model", model), ("le", "+Inf")], counted.count as f64);
        self.line(&format!("{name}_sum"), &[("model", model)], counted.sum);
        self.line(&format!("{name}_count"), &[("model", model)], counted.count as f64);
    }
}
