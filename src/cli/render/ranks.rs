//! The ranks of models that run on several machines, as text.

use super::table::{Cell, Column, draw};
use super::{Look, Style, hanging};
use crate::api::ModelStatus;
use crate::api::{RankState, RankStatus};
use crate::units::Bytes;

/// One line per rank below a header; empty if no model has ranks.
pub(crate) fn ranks(models: &[ModelStatus], look: &Look) -> String {
    const COLUMNS: [Column; 6] = [
        Column::left("MODEL", 0),
        Column::right("RANK", 0),
        Column::left("HOST", 0),
        Column::left("STATE", 0),
        Column::right("FOOTPRINT", 0),
        Column::right("PID", 1),
    ];
    let all = || models.iter().flat_map(|model| model.ranks.iter().map(move |rank| (model, rank)));
    let rows: Vec<Vec<Cell>> = all()
        .map(|(model, rank)| {
            let (state, style) = state(rank);
            vec![
                Cell::new(&model.name, Style::Strong),
                rank.rank.to_string().into(),
                rank.host.clone().into(),
                Cell::new(state, style),
                footprint(rank).unwrap_or_default().into(),
                rank.pid.map(|pid| pid.to_string()).unwrap_or_default().into(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    draw(&COLUMNS, &rows, look).unwrap_or_else(|| {
        let lines = all().map(|(model, rank)| {
            let (state, style) = state(rank);
            let words: Vec<String> =
                [rank.host.clone(), state.to_owned()].into_iter().chain(footprint(rank)).collect();
            hanging(&format!("{} {}:", model.name, rank.rank), style, &words.join(", "), Style::Plain, look)
        });
        lines.collect()
    })
}

fn footprint(rank: &RankStatus) -> Option<String> {
    rank.footprint_bytes.map(|bytes| Bytes(bytes).to_string())
}

fn state(rank: &RankStatus) -> (&'static str, Style) {
    match rank.state {
        RankState::Starting => ("starting", Style::Busy),
        RankState::Running => ("running", Style::Good),
        RankState::Silent => ("silent", Style::Bad),
        RankState::Ended => ("ended", Style::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn grouped() -> Vec<ModelStatus> {
        let mut models = sample::status().models;
        let rank = |rank, host: &str, pid, footprint_bytes, state| RankStatus {
            rank,
            host: host.to_owned(),
            pid,
            footprint_bytes,
            state,
        };
        models[0].ranks = vec![
            rank(0, "laptop.local", Some(4712), Some(9_500_000_000), RankState::Running),
            rank(1, "studio.local", None, None, RankState::Starting),
        ];
        models
    }

    #[test]
    fn every_rank_has_a_line_with_its_host_and_what_it_takes_there() {
        let look = Look { width: 80, color: false, unicode: true };
        assert_eq!(
            ranks(&grouped(), &look),
            "MODEL  RANK  HOST          STATE     FOOTPRINT   PID\n\
             32b       0  laptop.local  running     9.50 GB  4712\n\
             32b       1  studio.local  starting\n"
        );
        assert_eq!(ranks(&sample::status().models, &look), "", "no model has ranks");
    }

    #[test]
    fn a_narrow_terminal_shows_every_rank_too() {
        for width in [24, 36, 48] {
            let text = ranks(&grouped(), &Look { width, color: false, unicode: true });
            assert!(text.contains("laptop.local") && text.contains("starting"), "{text}");
            assert!(text.lines().all(|line| line.width() <= width), "{width}: {text}");
        }
    }
}
