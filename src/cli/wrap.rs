//! Wraps text at spaces to fit a width. Pure.

use unicode_width::UnicodeWidthStr;

/// Breaks `text` at spaces into lines of at most `width` columns; a longer word gets a line of its own.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.width() + 1 + word.width() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// Wraps the lines of `text` that exceed `width` columns. Continuation lines are indented `indent` columns further than
/// their line. A line with escape sequences is kept: it was laid out for this terminal.
pub(crate) fn fold(text: &str, indent: usize, width: usize) -> String {
    let mut out = Vec::new();
    for line in text.lines() {
        if line.width() <= width || line.contains('\x1b') {
            out.push(line.to_owned());
            continue;
        }
        let lead = line.len() - line.trim_start().len();
        let room = width.saturating_sub(lead + indent).max(20);
        for (index, piece) in wrap(line, room).into_iter().enumerate() {
            out.push(format!("{:1$}{piece}", "", lead + if index == 0 { 0 } else { indent }));
        }
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_blanks_and_lose_no_word() {
        let text = "not enough memory: 40.0 GB wanted,\n/a/very/long/path/without/blanks";
        assert_eq!(
            wrap(text, 20),
            ["not enough memory:", "40.0 GB wanted,", "/a/very/long/path/without/blanks"]
        );
    }

    #[test]
    fn long_lines_are_folded_and_short_ones_keep_their_blanks() {
        let text = "a table   of blanks\n  note: not enough memory for 40.0 GB of it";
        assert_eq!(
            fold(text, 2, 26),
            "a table   of blanks\n  note: not enough\n    memory for 40.0 GB of\n    it"
        );
        assert_eq!(fold(text, 2, usize::MAX), text);
        let painted = "\x1b[31m0123456789 0123456789 0123456789\x1b[0m";
        assert_eq!(fold(painted, 0, 20), painted);
    }
}
