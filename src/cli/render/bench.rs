//! Renders a bench report as text.

use std::fmt::Write as _;

use super::human::percent;
use super::table::{Cell, Column, draw};
use super::{Look, Style};
use crate::bench::report::Report;
use crate::bench::roofline::{Roofline, TargetVerdict};
use crate::bench::stats::Stats;
use crate::registry::ProcessType;
use crate::units::Bytes;

pub(crate) fn report(report: &Report, look: &Look) -> String {
    let mut out = heading(report, look);
    let tables = [prefill(report), decode(report), turns(report)];
    for (columns, rows) in tables.iter().filter(|(_, rows)| !rows.is_empty()) {
        // If not even the required columns fit, the terminal wraps the lines.
        let wide = Look { width: usize::MAX, ..*look };
        let table = draw(columns, rows, look).or_else(|| draw(columns, rows, &wide)).unwrap_or_default();
        let _ = write!(out, "\n{}\n", table.trim_end());
    }
    out.push('\n');
    for (head, text) in facts(report, look) {
        let _ = writeln!(out, "{}{text}", look.paint(Style::Faint, &format!("{head:<14}")));
    }
    out
}

fn heading(report: &Report, look: &Look) -> String {
    let dot = look.pick(" · ", " - ");
    let chip = report.chip.as_deref().unwrap_or("unknown chip");
    let mut parts = vec![look.paint(Style::Strong, &report.model), report.repo.clone(), chip.to_owned()];
    parts.extend((!report.settings.is_empty()).then(|| report.settings.clone()));
    format!("{}\n", parts.join(dot))
}

type Table = (Vec<Column>, Vec<Vec<Cell>>);

fn prefill(report: &Report) -> Table {
    let columns = vec![
        Column::right("PROMPT TOKENS", 0),
        Column::right("PREFILL TOK/S", 0),
        Column::right("SPREAD", 2),
        Column::right("FIRST TOKEN", 1),
    ];
    let row = |prefill: &crate::bench::run::Prefill| {
        vec![
            prefill.prompt_tokens.to_string().into(),
            speed(&prefill.tokens_per_second).into(),
            spread(&prefill.tokens_per_second).into(),
            millis(prefill.ttft_ms.median).into(),
        ]
    };
    (columns, report.measured.prefill.iter().map(row).collect())
}

fn decode(report: &Report) -> Table {
    let columns = vec![
        Column::right("STREAMS", 0),
        Column::right("DECODE TOK/S", 0),
        Column::right("SPREAD", 2),
        Column::right("EACH", 1),
        Column::right("FIRST TOKEN", 3),
    ];
    let row = |decode: &crate::bench::run::Decode| {
        vec![
            decode.streams.to_string().into(),
            speed(&decode.tokens_per_second).into(),
            spread(&decode.tokens_per_second).into(),
            speed(&decode.each).into(),
            millis(decode.ttft_ms.median).into(),
        ]
    };
    (columns, report.measured.decode.iter().map(row).collect())
}

/// The same prompt twice: without the prompt cache and with it.
fn turns(report: &Report) -> Table {
    let columns = vec![
        Column::left("SAME PROMPT", 0),
        Column::right("TOKENS", 1),
        Column::right("CACHED", 0),
        Column::right("FIRST TOKEN", 0),
    ];
    let Some(cache) = &report.measured.cache else { return (columns, Vec::new()) };
    let row = |name: &str, kept: u64, ms: f64| {
        let cells: Vec<Cell> = vec![
            name.to_owned().into(),
            cache.prompt_tokens.to_string().into(),
            kept.to_string().into(),
            millis(ms).into(),
        ];
        cells
    };
    let rows = vec![row("first time", 0, cache.cold_ms), row("again", cache.cached_tokens, cache.hit_ms)];
    (columns, rows)
}

fn facts(report: &Report, look: &Look) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(peak) = report.peak_bytes {
        facts.push(("memory", format!("peak {} in this run of the backend", Bytes(peak))));
    }
    match (&report.roofline, &report.roofline_unknown) {
        (Some(limit), _) => facts.push(("limit", roofline(limit, report.share))),
        (None, Some(why)) => facts.push(("limit", format!("unknown: {why}"))),
        (None, None) => {}
    }
    if let (Some(target), Some(verdict)) = (report.target, report.target_verdict) {
        facts.push(("target", self::target(report, target, verdict, look)));
    }
    if let Some((low, high)) = report.measured.answers.filter(|(low, high)| low < high) {
        facts.push(("answers", format!("{low} to {high} tokens: some ended by themselves")));
    }
    if report.measured.decode.is_empty() {
        facts.push(("decode", "the answers are too short to measure a speed: try --tokens 128".to_owned()));
    }
    facts.extend(throttled(report.process_type).map(|text| ("agent", text)));
    facts
}

/// A warning, if the agent's process type slows the models down.
fn throttled(chosen: ProcessType) -> Option<String> {
    matches!(chosen, ProcessType::Background | ProcessType::Adaptive).then(|| {
        format!(
            "the agent's process_type is {chosen:?}, which every backend inherits and cannot leave: on a Mac it may cost most \
             of the speed; compare with \"Interactive\" and \"Standard\""
        )
    })
}

fn roofline(limit: &Roofline, share: Option<f64>) -> String {
    let or_more = if limit.bandwidth.lower_bound { " or more" } else { "" };
    let share = share.map(|share| format!("; measured {} of it", percent_open(share))).unwrap_or_default();
    format!(
        "{} tok/s{or_more} for one stream: {:.0} GB/s ÷ {} that every token reads ({}){share}",
        number(limit.tokens_per_second),
        limit.bandwidth.bytes_per_second / 1e9,
        Bytes(limit.bytes_per_token),
        limit.bandwidth.source
    )
}

/// Not capped at 100 %: a draft model can exceed the limit.
fn percent_open(share: f64) -> String {
    if share < 0.01 {
        "less than 1 %".to_owned()
    } else if share > 1.0 {
        format!("{:.0} %", share * 100.0)
    } else {
        percent(share)
    }
}

fn target(report: &Report, target: f64, verdict: TargetVerdict, look: &Look) -> String {
    let wanted = number(target);
    match verdict {
        TargetVerdict::Met => look.paint(Style::Good, &format!("{wanted} tok/s: met")),
        TargetVerdict::Missed => look.paint(Style::Bad, &format!("{wanted} tok/s: missed")),
        TargetVerdict::Impossible => {
            let limit =
                report.roofline.as_ref().map(|limit| number(limit.tokens_per_second)).unwrap_or_default();
            let head =
                look.paint(Style::Bad, &format!("{wanted} tok/s: missed, and one stream cannot reach it"));
            let many = report
                .measured
                .most()
                .filter(|most| most.streams > 1 && most.tokens_per_second.median >= target);
            let reached =
                many.map(|most| format!("; {} streams at once do", most.streams)).unwrap_or_default();
            format!(
                "{head}: memory bandwidth limits one stream to {limit}; only a draft model or several streams can exceed it{reached}"
            )
        }
    }
}

fn speed(stats: &Stats) -> String {
    number(stats.median)
}

fn spread(stats: &Stats) -> String {
    format!("±{:.0} %", stats.spread() * 100.0)
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn millis(ms: f64) -> String {
    if ms >= 10_000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else if ms >= 100.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{ms:.1} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_type_that_slows_the_models_down_is_reported_with_the_numbers() {
        for chosen in [ProcessType::Background, ProcessType::Adaptive] {
            let told = throttled(chosen).unwrap();
            assert!(told.contains(&format!("{chosen:?}")) && told.contains("cannot leave"), "{told}");
        }
        assert_eq!(throttled(ProcessType::Standard), None);
        assert_eq!(throttled(ProcessType::Interactive), None);
    }

    #[test]
    fn the_shipped_registry_says_what_its_process_type_costs() {
        let text = include_str!("../../../config/models.toml");
        let line = text.lines().find(|line| line.starts_with("process_type = \"Background\"")).unwrap();
        assert!(
            line.contains("throttles the backends as well, always") && line.contains("mlxctl bench"),
            "{line}"
        );
    }
}
