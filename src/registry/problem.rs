//! What is wrong with a registry, where, and what to do about it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// Where in the file a problem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// 1 for the first line of the file.
    pub line: usize,
    /// 1 for the first character of the line; in characters, not bytes.
    pub column: usize,
    /// Byte offsets in the file, on character boundaries.
    pub span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// `None` for a problem of the file as a whole.
    pub place: Option<Place>,
    pub message: String,
    /// What to do about it, one line.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(place) = &self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// All problems of one registry, in the file's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.plain())]
pub struct Problems {
    list: Vec<Problem>,
    text: Arc<str>,
}

impl Problems {
    /// A problem of the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let problem =
            Problem { file: file.to_owned(), place: None, message: message.into(), hint: Some(hint.into()) };
        Self { list: vec![problem], text: Arc::default() }
    }

    pub(super) fn new(file: &Path, text: Arc<str>, findings: Vec<Finding>) -> Self {
        let mut list: Vec<Problem> = Vec::with_capacity(findings.len());
        for finding in findings {
            let place = finding.span.map(|span| place(&text, span));
            let Finding { message, hint, .. } = finding;
            let problem = Problem { file: file.to_owned(), place, message, hint };
            // What is in [defaults] is checked once per model.
            if !list.contains(&problem) {
                list.push(problem);
            }
        }
        list.sort_by_key(in_file);
        Self { list, text }
    }

    /// Both lists, in the file's order. They must be about the same file.
    pub fn and(mut self, other: Self) -> Self {
        if self.list.is_empty() {
            return other;
        }
        self.list.extend(other.list);
        self.list.sort_by_key(in_file);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// One line per problem: `file:line:column: message (hint)`.
    pub fn plain(&self) -> String {
        self.list.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
    }

    /// For people: each problem with its line of the file underlined, as compilers show it.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        self.list.iter().map(|problem| self.render_one(problem, &renderer)).collect::<Vec<_>>().join("\n\n")
    }

    fn render_one(&self, problem: &Problem, renderer: &Renderer) -> String {
        let file = problem.file.display().to_string();
        let group = Level::ERROR.primary_title(problem.message.as_str());
        let mut report = match &problem.place {
            // Pass on this line only: laying out the whole file for each of many problems would be slow.
            Some(place) => {
                let start = self.text[..place.span.start].rfind('\n').map_or(0, |at| at + 1);
                let end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
                let clipped = place.span.start - start..place.span.end.min(end).max(place.span.start) - start;
                group.element(
                    Snippet::source(&self.text[start..end])
                        .path(file)
                        .line_start(place.line)
                        .annotation(AnnotationKind::Primary.span(clipped)),
                )
            }
            None => group.element(Origin::path(file)),
        };
        if let Some(hint) = &problem.hint {
            report = report.element(Level::HELP.message(hint.as_str()));
        }
        renderer.render(&[report])
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A problem that is not tied to a file yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub span: Option<Range<usize>>,
    pub message: String,
    pub hint: Option<String>,
}

/// A problem found by a later check, reported at the key that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The path of the key: `model[0].cluster.mode`.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
}

/// Where each value is in the text, so that problems found later still have a line.
///
/// Equal to every other: two registries are the same if their values are, wherever those are written.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub(super) text: Arc<str>,
    /// By path: `paths.logs`, `model[0].size`. Byte offsets in `text`.
    pub(super) spans: BTreeMap<String, Range<usize>>,
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Written {
    /// The place of `key`, or of the nearest enclosing table that was written.
    pub(super) fn find(&self, key: &str) -> Option<Range<usize>> {
        let mut key = key;
        loop {
            if let Some(span) = self.spans.get(key) {
                return Some(span.clone());
            }
            key = &key[..key.rfind('.')?];
        }
    }
}

/// A user's text for use in a message: escaped, without line breaks, and cut at 80 characters.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    // Quotes and backslashes are harmless to a terminal, so they stay as they are.
    shown.replace("\\\"", "\"").replace("\\'", "'").replace("\\\\", "\\")
}

fn in_file(problem: &Problem) -> Option<(usize, usize)> {
    problem.place.as_ref().map(|place| (place.span.start, place.span.end))
}

fn place(text: &str, span: Range<usize>) -> Place {
    let start = boundary(text, span.start);
    let end = boundary(text, span.end.max(start));
    let line = text[..start].matches('\n').count() + 1;
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let column = text[line_start..start].chars().count() + 1;
    Place { line, column, span: start..end }
}

/// The nearest character boundary at or before `at`, inside the text.
fn boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}
