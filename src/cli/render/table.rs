//! Aligned columns without borders; the least important ones are dropped if room is short.

use std::ops::Range;

use unicode_width::UnicodeWidthStr;

use super::{Look, Style};

/// A column's head and how it behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub head: &'static str,
    /// Whether its cells are right-aligned, as numbers should be.
    pub right: bool,
    /// The column with the highest rank is dropped first; 0 never is.
    pub rank: u8,
}

impl Column {
    pub(crate) const fn left(head: &'static str, rank: u8) -> Self {
        Self { head, right: false, rank }
    }

    pub(crate) const fn right(head: &'static str, rank: u8) -> Self {
        Self { head, right: true, rank }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    /// Without escape sequences or line ends.
    pub text: String,
    pub style: Style,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::Plain)
    }
}

/// A table without borders or styles. It has no header if every name in `head` is empty.
pub(crate) fn plain(head: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if head.iter().any(|name| !name.is_empty()) {
        table.set_header(head.iter().map(|name| (*name).to_owned()));
    }
    table
}

/// The lines of a table. The columns in `right` are right-aligned. Long cells wrap if `width` is too narrow.
pub(crate) fn lines(mut table: comfy_table::Table, right: Range<usize>, width: usize) -> String {
    use comfy_table::{CellAlignment, ContentArrangement};
    match u16::try_from(width) {
        Ok(width) => {
            // The padding behind the last column may exceed the width.
            table.set_width(width.saturating_add(2)).set_content_arrangement(ContentArrangement::Dynamic);
        }
        Err(_) => _ = table.set_content_arrangement(ContentArrangement::Disabled),
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Draws heads and rows. A column whose cells are all empty is left out.
/// `None`: the columns that must stay do not fit.
pub(crate) fn draw(columns: &[Column], rows: &[Vec<Cell>], look: &Look) -> Option<String> {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let widest = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.text.width()).max();
            match widest {
                Some(0) => 0,
                other => other.unwrap_or(0).max(column.head.width()),
            }
        })
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).filter(|index| widths[*index] > 0).collect();
    while shown.iter().map(|index| widths[*index] + 2).sum::<usize>() > look.width.saturating_add(2) {
        let victim = *shown.iter().max_by_key(|index| columns[**index].rank)?;
        if columns[victim].rank == 0 {
            return None;
        }
        shown.retain(|index| *index != victim);
    }
    let heads: Vec<Cell> = columns.iter().map(|column| Cell::new(column.head, Style::Faint)).collect();
    let mut out = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        let mut gap = 0;
        for index in &shown {
            let (cell, width) = (row.get(*index).cloned().unwrap_or_default(), widths[*index]);
            let rest = width - cell.text.width();
            let before = if columns[*index].right { rest } else { 0 };
            if !cell.text.is_empty() {
                line.push_str(&" ".repeat(gap + before));
                line.push_str(&look.paint(cell.style, &cell.text));
                gap = rest - before + 2;
            } else {
                gap += width + 2;
            }
        }
        out.push_str(&line);
        out.push('\n');
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::left("NAME", 0),
        Column::right("SIZE", 1),
        Column::left("EMPTY", 0),
        Column::left("WHERE", 2),
    ];

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec!["32b".into(), "9 GB".into(), "".into(), "here".into()],
            vec![Cell::new("größer", Style::Good), "".into(), "".into(), "over there".into()],
        ]
    }

    fn at(width: usize) -> Option<String> {
        draw(&COLUMNS, &rows(), &Look { width, color: false, unicode: true })
    }

    #[test]
    fn cells_line_up_and_lines_have_no_trailing_blanks() {
        assert_eq!(
            at(usize::MAX).unwrap(),
            "NAME    SIZE  WHERE\n32b     9 GB  here\ngrößer        over there\n"
        );
    }

    #[test]
    fn the_least_important_columns_go_first() {
        assert_eq!(at(24), at(usize::MAX));
        assert_eq!(at(23).unwrap(), "NAME    SIZE\n32b     9 GB\ngrößer\n");
        assert_eq!(at(7).unwrap(), "NAME\n32b\ngrößer\n");
        assert_eq!(at(5), None);
    }

    #[test]
    fn plain_tables_wrap_their_long_cells_only_where_they_must() {
        let made = |width| {
            let mut table = plain(&["TERM", "PEAK", "OF"]);
            table.add_row(["runtime", "53.9 MB", "estimated 54.0 MB; Python and MLX on CPU"]);
            lines(table, 1..2, width)
        };
        let wide = "TERM        PEAK  OF\nruntime  53.9 MB  estimated 54.0 MB; Python and MLX on CPU\n";
        assert_eq!(made(usize::MAX), wide);
        assert_eq!(made(58), wide);
        let narrow = made(40);
        assert!(narrow.lines().all(|line| line.width() <= 40), "{narrow}");
        assert!(narrow.contains("runtime  53.9 MB  estimated"), "{narrow}");
    }

    #[test]
    fn colour_moves_nothing() {
        let plain = at(30).unwrap();
        let painted = draw(&COLUMNS, &rows(), &Look { width: 30, color: true, unicode: true }).unwrap();
        assert!(painted.contains("\x1b[32mgrößer\x1b[0m"));
        let mut stripped = painted;
        for code in ["\x1b[2m", "\x1b[32m", "\x1b[0m"] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, plain);
    }
}
