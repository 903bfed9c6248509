//! What is collected while a registry is read, besides its values: problems, places, keys.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use super::problem::{Finding, quote};

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// Problems, places and keys of one document.
#[derive(Debug, Default)]
pub(super) struct Notes {
    findings: RefCell<Vec<Finding>>,
    spans: RefCell<BTreeMap<String, Range<usize>>>,
    known: RefCell<Vec<String>>,
    unknown: RefCell<Vec<Unknown>>,
}

#[derive(Debug)]
struct Unknown {
    table: String,
    key: String,
    span: Range<usize>,
}

impl Notes {
    /// Notes a problem; without a span it is about something that was not written.
    pub(super) fn add(
        &self,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let hint = Some(hint.into()).filter(|hint: &String| !hint.is_empty());
        self.findings.borrow_mut().push(Finding { span, message: message.into(), hint });
    }

    /// Notes a problem with a value.
    pub(super) fn wrong<T>(&self, at: &At<T>, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Some(at.span.clone()), message, hint);
    }

    /// Records `path` as a known key, whether or not it is present.
    pub(super) fn asked(&self, path: &str) {
        self.known.borrow_mut().push(without_index(path));
    }

    /// Records where the value at `path` is.
    pub(super) fn stands(&self, path: String, span: Range<usize>) {
        self.spans.borrow_mut().insert(path, span);
    }

    pub(super) fn unknown(&self, table: &str, key: &str, span: Range<usize>) {
        let unknown = Unknown { table: table.to_owned(), key: key.to_owned(), span };
        self.unknown.borrow_mut().push(unknown);
    }

    /// Every key that was looked up, such as `model.server.kv_bits`, sorted.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<String> {
        let mut known = self.known.borrow().clone();
        known.sort();
        known.dedup();
        known
    }

    /// Ends the reading: keys that were not read become problems, each with the nearest known key.
    pub(super) fn finish(self) -> (Vec<Finding>, BTreeMap<String, Range<usize>>) {
        let known = self.known.borrow();
        for unknown in self.unknown.borrow().iter() {
            let message = format!("unknown key `{}` in {}", quote(&unknown.key), header(&unknown.table));
            self.add(Some(unknown.span.clone()), message, unknown_hint(unknown, &known));
        }
        (self.findings.take(), self.spans.take())
    }
}

fn unknown_hint(unknown: &Unknown, known: &[String]) -> String {
    let table = without_index(&unknown.table);
    let prefix = if table.is_empty() { String::new() } else { format!("{table}.") };
    let below = || known.iter().filter_map(|path| path.strip_prefix(&prefix));
    let here: Vec<&str> = below().filter(|path| !path.contains('.')).collect();
    if let Some(near) = nearest(&unknown.key, here.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    let wanted = unknown.key.replace('-', "_");
    if let Some(deeper) = below().find(|path| path.rsplit('.').next() == Some(&wanted)) {
        let (table, key) = deeper.rsplit_once('.').unwrap_or(("", deeper));
        return format!("it belongs in a nested table: `{table} = {{ {key} = … }}`");
    }
    let mut here = here;
    here.sort_unstable();
    here.dedup();
    format!("known keys: {}", here.join(", "))
}

/// The candidate that `asked` is most likely a misspelling of.
pub(super) fn nearest<'a>(asked: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    // A very long key is not a typo, and the distance takes quadratic time.
    if asked.len() > 100 {
        return None;
    }
    let asked = plain(asked);
    let allowed = (asked.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::osa_distance(&asked, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How a table is written: `[paths]`, `[[model]]`, or "the registry" for the outermost.
fn header(table: &str) -> String {
    let name = without_index(table);
    match (table.ends_with(']'), name.as_str()) {
        (_, "") => "the registry".to_owned(),
        (true, "model") => "[[model]]".to_owned(),
        _ => format!("[{name}]"),
    }
}

/// Removes the indices of a path: `model[3].server` → `model.server`
pub(super) fn without_index(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside |= *c == '[';
            let keep = !inside;
            inside &= *c != ']';
            keep
        })
        .collect()
}
