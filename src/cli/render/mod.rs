//! Documents → text. Pure: width, colour and alphabet are arguments.

pub(crate) mod bench;
pub(crate) mod budget;
mod heading;
pub(crate) mod human;
pub(crate) mod progress;
pub(crate) mod ranks;
pub(crate) mod status;
pub(crate) mod table;

use std::io::IsTerminal;

use unicode_width::UnicodeWidthStr;

use super::output::Output;
pub(crate) use super::wrap::{fold, wrap};

/// What stdout can show to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Columns; `usize::MAX` if it is not a terminal.
    pub width: usize,
    /// Whether to use colour (escape sequences).
    pub color: bool,
    /// Whether to use characters beyond ASCII.
    pub unicode: bool,
}

impl Look {
    /// Looks at stdout and the locale (POSIX: `LC_ALL` before `LC_CTYPE` before `LANG`).
    pub(crate) fn of(output: &Output) -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_ascii_lowercase();
        let width = std::io::stdout().is_terminal().then(terminal_size::terminal_size).flatten();
        Self {
            width: width.map_or(usize::MAX, |(width, _)| usize::from(width.0)),
            color: output.color,
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// `text` in `style`, where colour is wanted.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        match style.code().filter(|_| self.color && !text.is_empty()) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// `text` in one line of the terminal; where it is cut, a sign says so.
    pub(crate) fn cut(&self, text: &str) -> String {
        if text.width() <= self.width {
            return text.to_owned();
        }
        let sign = self.pick("…", "...");
        let mut kept = text.to_owned();
        while kept.width() + sign.width() > self.width && kept.pop().is_some() {}
        kept + sign
    }

    /// One of two spellings.
    pub(crate) fn pick<'a>(&self, unicode: &'a str, ascii: &'a str) -> &'a str {
        if self.unicode { unicode } else { ascii }
    }
}

/// What a piece of text means; a colour follows from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Plain,
    /// A name, a number that matters.
    Strong,
    Faint,
    Good,
    /// In progress, or worth a look.
    Busy,
    Bad,
    /// What to do, as a command.
    Hint,
    Reserve,
    /// One of several of a kind, told apart by colour alone.
    Series(usize),
}

/// Colours that neither [`Style::Reserve`] nor [`Style::Bad`] has.
const SERIES: [&str; 6] = ["32", "34", "36", "33", "94", "92"];

impl Style {
    /// The parameters of `SGR` (ECMA-48, 8.3.117); the eight colours that every theme defines.
    fn code(self) -> Option<&'static str> {
        Some(match self {
            Self::Plain => return None,
            Self::Strong => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Busy => "33",
            Self::Bad => "31",
            Self::Hint => "36",
            Self::Reserve => "35",
            Self::Series(number) => SERIES[number % SERIES.len()],
        })
    }
}

/// `label` followed by `text`, whose later lines are indented as far as the first.
pub(crate) fn hanging(label: &str, label_style: Style, text: &str, style: Style, look: &Look) -> String {
    let indent = label.width() + 1;
    let room = look.width.saturating_sub(indent).max(20);
    let mut out = String::new();
    for (index, line) in wrap(text, room).iter().enumerate() {
        let head = if index == 0 { look.paint(label_style, label) } else { " ".repeat(indent - 1) };
        out.push_str(&format!("{head} {}\n", look.paint(style, line)));
    }
    out
}

#[cfg(test)]
pub(crate) mod sample;
