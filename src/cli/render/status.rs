//! `status` and `ps` as text.

use super::table::{Cell, Column, draw};
use super::{Look, Style, budget, hanging, heading, human, ranks};
use crate::api::{ModelStatus, StateName, Status};
use crate::registry::Start;
use crate::units::Bytes;

/// Below this many columns a model gets a block instead of a row.
const NARROW: usize = 60;

/// The whole document: supervisor, machine, models, notes, budget.
pub(crate) fn status(status: &Status, look: &Look) -> String {
    let mut out = heading::heading(status, look);
    out.push('\n');
    if status.models.is_empty() {
        out.push_str(&look.paint(Style::Faint, "the registry has no models"));
        out.push('\n');
    } else {
        out.push_str(&models(&status.models, look));
    }
    let ranks = ranks::ranks(&status.models, look);
    if !ranks.is_empty() {
        out.push('\n');
        out.push_str(&ranks);
    }
    if let Some(router) = &status.router {
        let style = if router.problem.is_some() { Style::Busy } else { Style::Plain };
        let text = format!("{}, one address for all models", router.address);
        out.push_str(&hanging("router:", style, &text, Style::Plain, look));
    }
    let notes = notes(status, look);
    if !notes.is_empty() {
        out.push('\n');
        out.push_str(&notes);
    }
    out.push('\n');
    out.push_str(&budget::bar(status, look));
    out
}

/// A table with one line per running backend.
pub(crate) fn backends(status: &Status, look: &Look) -> String {
    const COLUMNS: [Column; 7] = [
        Column::left("MODEL", 0),
        Column::right("PID", 0),
        Column::left("STATE", 0),
        Column::right("FOOTPRINT", 1),
        Column::right("PEAK", 3),
        Column::right("UP", 2),
        Column::left("BACKEND", 4),
    ];
    let rows: Vec<Vec<Cell>> = status
        .models
        .iter()
        .filter(|model| model.pid.is_some())
        .map(|model| {
            vec![
                Cell::new(&model.name, Style::Strong),
                model.pid.map(|pid| pid.to_string()).unwrap_or_default().into(),
                state_cell(model, look),
                size(model.memory.footprint_bytes).into(),
                size(model.memory.peak_bytes).into(),
                model.uptime_seconds.map(human::span).unwrap_or_default().into(),
                model.backend_address.clone().unwrap_or_default().into(),
            ]
        })
        .collect();
    let wide = Look { width: usize::MAX, ..*look };
    draw(&COLUMNS, &rows, look).or_else(|| draw(&COLUMNS, &rows, &wide)).unwrap_or_default()
}

/// The state as the JSON document spells it.
pub(crate) fn state_word(state: StateName) -> &'static str {
    match state {
        StateName::Stopped => "stopped",
        StateName::Unsupervised => "unsupervised",
        StateName::Spawning => "spawning",
        StateName::Loading => "loading",
        StateName::Ready => "ready",
        StateName::Draining => "draining",
        StateName::Stopping => "stopping",
        StateName::Backoff => "backoff",
        StateName::Failed => "failed",
    }
}

fn models(models: &[ModelStatus], look: &Look) -> String {
    const COLUMNS: [Column; 10] = [
        Column::left("MODEL", 0),
        Column::left("STATE", 0),
        Column::left("MEMORY", 1),
        Column::left("ADDRESS", 2),
        Column::right("UP", 3),
        Column::right("RESTARTS", 5),
        Column::right("IN FLIGHT", 7),
        Column::right("TOK/S", 4),
        Column::left("START", 6),
        Column::left("REPOSITORY", 8),
    ];
    if look.width < NARROW {
        return blocks(models, look);
    }
    let rows: Vec<Vec<Cell>> = models
        .iter()
        .map(|model| {
            let restarts = if model.restarts > 0 { Style::Busy } else { Style::Plain };
            let live = model.pid.is_some();
            vec![
                Cell::new(&model.name, Style::Strong),
                state_cell(model, look),
                memory_cell(model),
                model.address.clone().into(),
                model.uptime_seconds.map(human::span).unwrap_or_default().into(),
                Cell::new(
                    if live || model.restarts > 0 { model.restarts.to_string() } else { String::new() },
                    restarts,
                ),
                if live { model.traffic.in_flight.to_string() } else { String::new() }.into(),
                speed(model).unwrap_or_default().into(),
                start_word(model).into(),
                Cell::new(&model.repo, Style::Faint),
            ]
        })
        .collect();
    draw(&COLUMNS, &rows, look).unwrap_or_else(|| blocks(models, look))
}

/// One block per model, for a terminal next to a game.
fn blocks(models: &[ModelStatus], look: &Look) -> String {
    let mut out = String::new();
    for model in models {
        let state = state_cell(model, look);
        out.push_str(&format!(
            "{}  {}\n",
            look.paint(Style::Strong, &model.name),
            look.paint(state.style, &state.text)
        ));
        let memory = memory_cell(model);
        for text in [memory.text, model.address.clone(), activity(model)] {
            if !text.is_empty() {
                out.push_str(&format!("  {text}\n"));
            }
        }
    }
    out
}

fn activity(model: &ModelStatus) -> String {
    let mut words = Vec::new();
    words.extend(model.uptime_seconds.map(|seconds| format!("up {}", human::span(seconds))));
    if model.restarts > 0 {
        words.push(human::count(model.restarts.into(), "restart"));
    }
    words.extend(speed(model).map(|speed| format!("{speed} tok/s")));
    words.join(", ")
}

fn state_cell(model: &ModelStatus, look: &Look) -> Cell {
    let (mark, style) = match model.state {
        StateName::Ready => (look.pick("●", "*"), Style::Good),
        StateName::Stopped => (look.pick("○", "-"), Style::Faint),
        StateName::Unsupervised => (look.pick("●", "*"), Style::Busy),
        StateName::Failed => (look.pick("✗", "x"), Style::Bad),
        StateName::Backoff => (look.pick("◌", "!"), Style::Bad),
        StateName::Spawning | StateName::Loading | StateName::Draining | StateName::Stopping => {
            (look.pick("◐", "~"), Style::Busy)
        }
    };
    let mut text = format!("{mark} {}", state_word(model.state));
    match model.state {
        StateName::Loading => text.extend(model.progress.map(|share| format!(" {}", human::percent(share)))),
        StateName::Backoff => {
            text.extend(model.next_start_seconds.map(|wait| format!(", next in {}", human::span(wait))));
        }
        StateName::Ready if !model.health.answering => text.push_str(", not answering"),
        StateName::Ready if unreachable(model) => text.push_str(", not reachable"),
        StateName::Ready if model.adopted => text.push_str(" (adopted)"),
        _ => {}
    }
    let style = match model.state {
        StateName::Ready if unreachable(model) => Style::Bad,
        StateName::Ready if !model.health.answering || model.gate.problem.is_some() => Style::Busy,
        _ => style,
    };
    Cell::new(text, style)
}

/// Whether its gate has a problem and listens nowhere.
fn unreachable(model: &ModelStatus) -> bool {
    model.gate.problem.is_some() && model.gate.listening.is_empty()
}

fn memory_cell(model: &ModelStatus) -> Cell {
    let memory = &model.memory;
    match (memory.footprint_bytes, memory.estimate_bytes) {
        (Some(now), Some(estimate)) => {
            let style = if now > estimate { Style::Bad } else { Style::Plain };
            Cell::new(format!("{} of {}", Bytes(now), Bytes(estimate)), style)
        }
        (Some(now), None) => Bytes(now).to_string().into(),
        (None, Some(estimate)) => Cell::new(format!("needs {}", Bytes(estimate)), Style::Faint),
        (None, None) => Cell::default(),
    }
}

fn speed(model: &ModelStatus) -> Option<String> {
    model.traffic.tokens_per_second.map(|speed| format!("{speed:.1}"))
}

fn start_word(model: &ModelStatus) -> &'static str {
    match model.start {
        Start::Always => "always",
        Start::Manual => "manual",
    }
}

fn size(bytes: Option<u64>) -> String {
    bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default()
}

/// Notes in sentences: about the supervisor first, then about each model.
fn notes(status: &Status, look: &Look) -> String {
    let mut out = String::new();
    if let Some(supervisor) = &status.supervisor {
        if let Some(problem) = &supervisor.config_problem {
            let text = format!("changes on disk are not applied: {problem}");
            out.push_str(&hanging("registry:", Style::Bad, &text, Style::Plain, look));
            out.push_str(&hanging("          try:", Style::Hint, "mlxctl check", Style::Hint, look));
        }
        // What a gate waits for is shown with its model.
        let of_gate =
            |wait: &String| status.models.iter().any(|model| model.gate.problem.as_ref() == Some(wait));
        for wait in supervisor.waiting_for.iter().filter(|wait| !of_gate(wait)) {
            out.push_str(&hanging("waiting for:", Style::Busy, wait, Style::Plain, look));
        }
    }
    for model in &status.models {
        let style = state_cell(model, look).style;
        let label = format!("{}:", model.name);
        let indent = " ".repeat(label.chars().count());
        let mut first = true;
        let outdated = model.outdated.as_ref().map(|how| {
            format!("still running with its old settings ({how}). Apply: mlxctl restart {}", model.name)
        });
        let gate = model.gate.problem.as_ref().map(|problem| match unreachable(model) {
            true => format!("not reachable: {problem}"),
            false => problem.clone(),
        });
        let leaves = leaves(model);
        for text in model.reason.iter().chain(&gate).chain(&outdated).chain(&leaves) {
            let label = if first { &label } else { &indent };
            out.push_str(&hanging(label, style, text, Style::Plain, look));
            first = false;
        }
        if let Some(hint) = &model.hint {
            let label = if first { format!("{label} try:") } else { format!("{indent} try:") };
            out.push_str(&hanging(&label, Style::Hint, hint, Style::Hint, look));
        }
    }
    out
}

/// An on-demand model without a time limit is called idle from here on, seconds.
const LONG: f64 = 3600.0;

/// How long a model has been idle, or when it stops by itself.
fn leaves(model: &ModelStatus) -> Option<String> {
    let idle = model.idle_seconds.map(|seconds| format!("idle for {}", human::span(seconds)));
    match model.stops_in_seconds {
        Some(left) if left > 0.0 => {
            let end = format!("stops in {}", human::span(left));
            Some(idle.map_or_else(|| end.clone(), |idle| format!("{end}, {idle}")))
        }
        Some(_) => Some("stops when its requests are done".to_owned()),
        None => idle
            .filter(|_| model.start == Start::Manual && model.idle_seconds.is_some_and(|idle| idle >= LONG)),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
