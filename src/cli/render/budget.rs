//! The memory budget as a bar: models, reserves, what is left.

use unicode_width::UnicodeWidthStr;

use super::{Look, Style};
use crate::api::{ModelStatus, StateName, Status};
use crate::registry::Start;
use crate::units::Bytes;

/// Length of the bar in a pipe, columns.
const BAR_PIPED: usize = 74;

struct Part {
    name: String,
    bytes: u64,
    style: Style,
    fill: &'static str,
}

/// The bar, with a legend of its parts below it.
pub(crate) fn bar(status: &Status, look: &Look) -> String {
    let budget = &status.budget;
    let parts = parts(status, look);
    let columns = if look.width == usize::MAX { BAR_PIPED } else { look.width };
    let cells = columns.saturating_sub(2).max(10);
    let used: u64 = parts.iter().map(|part| part.bytes).sum();
    let lengths = lengths(&parts, budget.total_bytes.max(used), cells);
    let free_fill = look.pick("░", ".");
    let mut line = String::from("[");
    for (part, length) in parts.iter().zip(&lengths) {
        line.push_str(&look.paint(part.style, &part.fill.repeat(*length)));
    }
    let rest = cells.saturating_sub(lengths.iter().sum());
    line.push_str(&look.paint(Style::Faint, &free_fill.repeat(rest)));
    line.push_str("]\n");

    let mut words: Vec<(usize, String)> = parts
        .iter()
        .map(|part| {
            let text = format!("{} {}", part.name, Bytes(part.bytes));
            (2 + text.width(), format!("{} {text}", look.paint(part.style, part.fill)))
        })
        .collect();
    let free = Bytes(budget.free_bytes.unsigned_abs());
    words.push(if budget.free_bytes < 0 {
        let text = format!("{free} over the limit");
        (text.width(), look.paint(Style::Bad, &text))
    } else {
        let text = format!("free {free} of {}", Bytes(budget.total_bytes));
        (
            2 + text.width(),
            format!("{} {}", look.paint(Style::Faint, free_fill), look.paint(Style::Strong, &text)),
        )
    });
    for model in status.models.iter().filter(|model| model.memory.forced) {
        let over = model.memory.overdraft_bytes.map(|bytes| format!(", {} over", Bytes(bytes)));
        let text = format!("{} started by force{}", model.name, over.unwrap_or_default());
        words.push((text.width(), look.paint(Style::Bad, &text)));
    }
    for reserve in budget.reserves.iter().filter(|reserve| !reserve.active) {
        let text = format!("({} {} while it runs)", reserve.name, Bytes(reserve.bytes));
        words.push((text.width(), look.paint(Style::Faint, &text)));
    }
    line + &flow(&words, look.width)
}

fn parts(status: &Status, look: &Look) -> Vec<Part> {
    let budget = &status.budget;
    // Neighbouring parts differ even without colour.
    let model_fills = [look.pick("█", "#"), look.pick("▓", "%")];
    let planned = status.supervisor.is_none();
    let counts = |model: &&ModelStatus| match planned {
        true => model.start == Start::Always || model.state == StateName::Unsupervised,
        false => model.state.holds_memory(),
    };
    let mut left = budget.models_bytes;
    let mut parts: Vec<Part> = Vec::new();
    for model in status.models.iter().filter(counts) {
        let bytes = model.memory.estimate_bytes.unwrap_or(0).min(left);
        left -= bytes;
        if bytes > 0 {
            let (style, fill) = (Style::Series(parts.len()), model_fills[parts.len() % 2]);
            parts.push(Part { name: model.name.clone(), bytes, style, fill });
        }
    }
    if left > 0 {
        parts.push(Part {
            name: "other models".to_owned(),
            bytes: left,
            style: Style::Series(parts.len()),
            fill: model_fills[parts.len() % 2],
        });
    }
    for reserve in budget.reserves.iter().filter(|reserve| reserve.active) {
        parts.push(Part {
            name: reserve.name.clone(),
            bytes: reserve.bytes,
            style: Style::Reserve,
            fill: look.pick("▒", "="),
        });
    }
    parts
}

/// How many of `cells` each part takes, at least one. Its end is rounded, not its length, so that errors do not add up.
fn lengths(parts: &[Part], total: u64, cells: usize) -> Vec<usize> {
    let mut end = 0_u64;
    let mut filled = 0;
    parts
        .iter()
        .enumerate()
        .map(|(index, part)| {
            end = end.saturating_add(part.bytes);
            let exact = u128::from(end) * cells as u128 * 2 / u128::from(total.max(1));
            let rounded = usize::try_from(exact.div_ceil(2)).unwrap_or(cells);
            let behind = parts.len() - index - 1;
            let length = rounded.saturating_sub(filled).max(1).min(cells.saturating_sub(filled + behind));
            filled += length;
            length
        })
        .collect()
}

/// Lays words out in lines, three spaces apart.
fn flow(words: &[(usize, String)], width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for (length, text) in words {
        if column > 0 && column + 3 + length > width {
            out.push('\n');
            column = 0;
        }
        let gap = if column == 0 { 0 } else { 3 };
        out.push_str(&" ".repeat(gap));
        out.push_str(text);
        column += gap + length;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::sample;

    #[test]
    fn the_bar_is_as_long_as_it_should_be_whatever_the_numbers() {
        let part = |bytes| Part { name: String::new(), bytes, style: Style::Plain, fill: "#" };
        for sizes in [vec![], vec![1, 1, 1], vec![u64::MAX, 1], vec![0, 0], vec![50, 50], vec![1; 40]] {
            let parts: Vec<_> = sizes.iter().map(|bytes| part(*bytes)).collect();
            let total = sizes.iter().fold(100_u64, |sum, bytes| sum.saturating_add(*bytes));
            assert!(lengths(&parts, total, 20).iter().sum::<usize>() <= 20, "{sizes:?}");
        }
        assert_eq!(lengths(&[part(50), part(1), part(25)], 100, 20), [10, 1, 4]);
    }

    #[test]
    fn models_differ_in_colour_and_the_bar_fills_the_width() {
        let mut status = sample::status();
        status.models[1].state = StateName::Ready;
        status.budget.models_bytes = 64_400_000_000;
        for width in [60, 80, 120, 200] {
            let text = bar(&status, &Look { width, color: false, unicode: true });
            assert_eq!(text.lines().next().unwrap().width(), width, "{text}");
            assert!(text.contains("█▓"), "{text}");
        }
        let text = bar(&status, &Look { width: 80, color: true, unicode: true });
        let colours: Vec<&str> = text.lines().next().unwrap().split("\x1b[").skip(1).step_by(2).collect();
        assert!(!colours[0].starts_with(&colours[1][..2]), "{colours:?}");
    }

    #[test]
    fn a_plan_that_does_not_fit_says_by_how_much() {
        let mut status = sample::status();
        status.budget.free_bytes = -3_200_000_000;
        let text = bar(&status, &Look { width: 100, color: false, unicode: false });
        assert!(text.contains("3.20 GB over the limit"), "{text}");
        assert!(!text.contains("by force"), "{text}");
    }

    #[test]
    fn a_start_by_force_stays_visible_with_its_overdraft() {
        let mut status = sample::status();
        status.models[0].memory.forced = true;
        status.models[0].memory.overdraft_bytes = Some(3_200_000_000);
        let text = bar(&status, &Look { width: 100, color: false, unicode: false });
        assert!(text.contains("32b started by force, 3.20 GB over"), "{text}");
    }
}
