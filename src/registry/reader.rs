//! Typed access to a TOML table that records problems and continues.

mod lists;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) use lists::NameOr;

use super::notes::{At, Notes, nearest};
use super::problem::quote;
use crate::clock::hours::Hours;
use crate::units::{Bytes, ParseBytesError, Percent};

/// The longest time allowed, a year; beyond it clocks overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// One table, or the place where it could be.
pub(super) struct Section<'a> {
    notes: &'a Notes,
    table: Option<&'a DeTable<'a>>,
    path: String,
    /// The place of the table, for what is missing from it.
    pub span: Option<Range<usize>>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn read<T>(notes: &'a Notes, table: &'a DeTable<'a>, read: impl FnOnce(&Self) -> T) -> T {
        Self::scope(notes, Some(table), String::new(), None, read)
    }

    /// Unknown keys are found at the end of the scope, so that no reader can forget to look for them.
    fn scope<T>(
        notes: &'a Notes,
        table: Option<&'a DeTable<'a>>,
        path: String,
        span: Option<Range<usize>>,
        read: impl FnOnce(&Self) -> T,
    ) -> T {
        let section = Self { notes, table, path, span, asked: RefCell::default() };
        let value = read(&section);
        let asked = section.asked.take();
        for (key, _) in section.table.into_iter().flatten() {
            if !asked.iter().any(|known| *known == key.get_ref()) {
                notes.unknown(&section.path, key.get_ref(), key.span());
            }
        }
        value
    }

    fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        let path = self.path(key);
        self.notes.asked(&path);
        let value = self.table?.get(key)?;
        self.notes.stands(path, value.span());
        Some(value)
    }

    fn mismatch(&self, key: &str, wanted: &str, value: &Spanned<DeValue<'_>>, example: impl Display) {
        let message = format!("`{key}` takes {wanted}, not {}", kind(value.get_ref()));
        self.notes.add(Some(value.span()), message, format!("for example: {key} = {example}"));
    }

    /// The place of the table; `None` if it was not written, or is not a table.
    pub(super) fn place(&self) -> Option<Range<usize>> {
        self.table.and(self.span.clone())
    }

    /// Every key that was written, even if malformed.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.table.into_iter().flatten().map(|(key, _)| key.get_ref().to_string()).collect()
    }

    /// Whether `key` was written, even if malformed.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether `key` is an empty list.
    pub(super) fn has_empty_list(&self, key: &str) -> bool {
        let value = self.table.and_then(|table| table.get(key)).map(Spanned::get_ref);
        matches!(value, Some(DeValue::Array(array)) if array.is_empty())
    }

    pub(super) fn text(&self, key: &'static str, example: &str) -> Option<At<String>> {
        let value = self.get(key)?;
        let DeValue::String(text) = value.get_ref() else {
            self.mismatch(key, "text", value, format_args!("\"{example}\""));
            return None;
        };
        Some(At { value: text.to_string(), span: value.span() })
    }

    pub(super) fn flag(&self, key: &'static str) -> Option<At<bool>> {
        let value = self.get(key)?;
        let DeValue::Boolean(flag) = value.get_ref() else {
            self.mismatch(key, "true or false", value, true);
            return None;
        };
        Some(At { value: *flag, span: value.span() })
    }

    /// A whole number within `range`, which has to fit into `T`.
    pub(super) fn whole<T: TryFrom<i64>>(
        &self,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<At<T>> {
        let value = self.get(key)?;
        let span = value.span();
        let DeValue::Integer(integer) = value.get_ref() else {
            // The usual mistake is 8800 in quotes; otherwise any number in the range shows the form.
            let meant = value.get_ref().as_str().and_then(|text| text.parse().ok());
            let example =
                meant.filter(|n| range.contains(n)).unwrap_or_else(|| 8.clamp(*range.start(), *range.end()));
            self.mismatch(key, "a whole number", value, example);
            return None;
        };
        let digits = integer.as_str().replace('_', "");
        let number = i64::from_str_radix(&digits, integer.radix()).ok().filter(|n| range.contains(n));
        if let Some(value) = number.and_then(|n| T::try_from(n).ok()) {
            return Some(At { value, span });
        }
        let (low, high) = (range.start(), range.end());
        self.notes.add(
            Some(span),
            format!("`{key}` = {} is out of range", quote(integer.as_str())),
            format!("{low} to {high}"),
        );
        None
    }

    /// A number within `range`, with or without a fraction.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<At<f64>> {
        let value = self.get(key)?;
        let span = value.span();
        let text = match value.get_ref() {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => {
                self.mismatch(key, "a number", value, range.start());
                return None;
            }
        };
        match text.replace('_', "").parse::<f64>() {
            Ok(value) if range.contains(&value) => Some(At { value, span }),
            _ => {
                self.notes.add(
                    Some(span),
                    format!("`{key}` = {} is out of range", quote(text)),
                    format!("{} to {}", range.start(), range.end()),
                );
                None
            }
        }
    }

    /// One range of hours, or a list of them.
    pub(super) fn hours(&self, key: &'static str) -> Option<At<Hours>> {
        let value = self.get(key)?;
        let example = "\"08:00-23:30\"";
        let text = |item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        };
        let texts: Option<Vec<String>> = items.iter().map(|item| text(item)).collect();
        let Some(texts) = texts else {
            self.mismatch(key, "a range of hours, or a list of them", value, example);
            return None;
        };
        if texts.is_empty() {
            let message = format!("`{key}` has no range: it would never be up");
            self.notes.add(Some(value.span()), message, "leave it out, or name one: \"08:00-23:30\"");
            return None;
        }
        match Hours::parse(texts.iter().map(String::as_str)) {
            Ok(hours) => Some(At { value: hours, span: value.span() }),
            Err((index, error)) => {
                let message = format!("`{key}`: `{}` {error}", quote(&texts[index]));
                let hint =
                    "from one time of day to another, \"08:00-23:30\"; across midnight: \"20:00-02:00\"";
                self.notes.add(items.get(index).map(|item| item.span()), message, hint);
                None
            }
        }
    }

    /// A share in whole percent within `range`.
    pub(super) fn percent(&self, key: &'static str, range: RangeInclusive<u8>) -> Option<At<Percent>> {
        let value = self.get(key)?;
        let span = value.span();
        let (low, high) = (Percent(*range.start()), Percent(*range.end()));
        let DeValue::String(text) = value.get_ref() else {
            self.mismatch(key, "a share in percent", value, "\"50%\"");
            return None;
        };
        let digits = text.strip_suffix('%').map(str::trim);
        match digits.map(|digits| digits.parse::<u8>().ok().filter(|number| range.contains(number))) {
            Some(Some(number)) => return Some(At { value: Percent(number), span }),
            Some(None) => self.notes.add(
                Some(span),
                format!("`{key}` = {} is out of range, or not a whole number", quote(text)),
                format!("\"{low}\" to \"{high}\""),
            ),
            None => self.notes.add(
                Some(span),
                format!("`{key}` has no `%`: {}", quote(text)),
                format!("\"{low}\" to \"{high}\", for example {key} = \"50%\""),
            ),
        }
        None
    }

    /// A size with its unit; above zero, unless `zero` is allowed.
    pub(super) fn size(&self, key: &'static str, zero: bool) -> Option<At<Bytes>> {
        let value = self.get(key)?;
        let span = value.span();
        let written = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().replace('_', ""),
            DeValue::Float(float) => float.as_str().to_owned(),
            _ => {
                self.mismatch(key, "a size", value, "\"20GB\"");
                return None;
            }
        };
        let example = "for example \"20GB\" or \"16 GiB\"";
        let negative = written.trim_start().starts_with('-');
        let (problem, hint) = match written.parse::<Bytes>() {
            Ok(Bytes(0)) if !zero => {
                (format!("`{key}` is zero"), format!("write a size above zero, {example}"))
            }
            Ok(bytes) => return Some(At { value: bytes, span }),
            Err(ParseBytesError::NoUnit(number)) => (
                format!("`{key}` has no unit: {} of what?", quote(&number)),
                format!("write \"{number}GB\" or \"{number}GiB\""),
            ),
            Err(ParseBytesError::Number(_)) if negative => {
                (format!("`{key}` is negative"), format!("write a size above zero, {example}"))
            }
            Err(ParseBytesError::Number(_)) => {
                (format!("`{}` is not a size", quote(&written)), format!("a number and a unit, {example}"))
            }
            Err(ParseBytesError::Unit(unit)) => (
                format!("`{}` is not a unit of size", quote(&unit)),
                "the units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB".to_owned(),
            ),
            Err(ParseBytesError::TooLarge(_)) => {
                (format!("`{key}` is more than any machine has"), example.to_owned())
            }
        };
        self.notes.add(Some(span), problem, hint);
        None
    }

    /// A time above zero and below a year, with its unit.
    pub(super) fn duration(&self, key: &'static str) -> Option<At<Duration>> {
        const EXAMPLE: &str = "for example \"30s\", \"2m\" or \"1h 30m\"";
        let value = self.get(key)?;
        let span = value.span();
        let text = match value.get_ref() {
            DeValue::String(text) => text,
            DeValue::Integer(integer) => {
                let number = integer.to_string();
                let seconds = number.trim_start_matches('-');
                let message = format!("`{key}` has no unit: {} of what?", quote(&number));
                self.notes.add(
                    Some(span),
                    message,
                    format!("write \"{}s\" for seconds, \"{0}m\" for minutes", quote(seconds)),
                );
                return None;
            }
            _ => {
                self.mismatch(key, "a time", value, "\"30s\"");
                return None;
            }
        };
        let problem = match humantime::parse_duration(text) {
            _ if text.trim_start().starts_with('-') => format!("`{key}` is negative"),
            Ok(Duration::ZERO) => format!("`{key}` is zero"),
            Ok(time) if time > LONGEST => format!("`{key}` is longer than a year"),
            Ok(value) => return Some(At { value, span }),
            Err(_) if !text.is_empty() && text.trim().bytes().all(|b| b.is_ascii_digit()) => {
                format!("`{key}` has no unit: {} of what?", quote(text))
            }
            Err(_) => format!("`{}` is not a duration", quote(text)),
        };
        self.notes.add(Some(span), problem, EXAMPLE);
        None
    }

    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<At<T>> {
        let text = self.text(key, words.first().map_or("", |(word, _)| word))?;
        self.word(text, words, |text| format!("`{key}` cannot be `{text}`"))
    }

    fn word<T: Copy>(
        &self,
        text: At<String>,
        words: &[(&str, T)],
        wrong: impl FnOnce(&str) -> String,
    ) -> Option<At<T>> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(At { value: *value, span: text.span });
        }
        let allowed = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let near = nearest(&text.value, words.iter().map(|(word, _)| *word));
        let hint = near.map_or_else(String::new, |word| format!("did you mean \"{word}\"? "));
        self.notes.wrong(&text, wrong(&quote(&text.value)), format!("{hint}allowed: {allowed}"));
        None
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
