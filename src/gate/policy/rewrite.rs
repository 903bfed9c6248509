//! Changes to a body that leave every other byte as it was.

use std::ops::Range;

use super::json::Text;

/// What `mlx_lm.server` calls the model that it was started with, adapter and draft model included. Under its path it
/// would be a different model, without them.
pub(crate) const DEFAULT_MODEL: &str = "default_model";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The value of `model` becomes [`DEFAULT_MODEL`].
    Model(Range<usize>),
    /// Inserts `model`, which is missing, after the opening brace.
    Insert(usize),
    /// Inserts `max_tokens`, for which the request has no number, after the opening brace.
    InsertTokens(usize, u64),
    /// Inserts a value of a preset, as JSON, after the opening brace.
    Preset(usize, &'static str, String),
    /// The key becomes `_`, which the server does not read.
    Neutral(Range<usize>),
    /// Replaces the value with this number.
    Number(Range<usize>, u64),
    Cut(Range<usize>),
}

impl Edit {
    /// The edit that hides a key from the server.
    pub(crate) fn neutral(key: &Text<'_>) -> Self {
        Self::Neutral(key.span.clone())
    }

    fn span(&self) -> Range<usize> {
        match self {
            Self::Model(span) | Self::Neutral(span) | Self::Number(span, _) | Self::Cut(span) => span.clone(),
            Self::Insert(at) | Self::InsertTokens(at, _) | Self::Preset(at, ..) => *at..*at,
        }
    }
}

/// Applies the edits, which must not overlap.
pub(crate) fn apply(body: &[u8], edits: &mut [Edit]) -> Vec<u8> {
    // Insertions come before a change to the key at the same place.
    edits.sort_by_key(|edit| (edit.span().start, edit.span().end));
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut from = 0;
    for edit in edits {
        let span = edit.span();
        out.extend_from_slice(body.get(from..span.start).unwrap_or_default());
        match edit {
            Edit::Model(_) => push_model(&mut out),
            Edit::Neutral(_) => out.extend_from_slice(b"\"_\""),
            Edit::Insert(_) => {
                out.extend_from_slice(b"\"model\":");
                push_model(&mut out);
                out.push(b',');
            }
            Edit::InsertTokens(_, tokens) => {
                out.extend_from_slice(b"\"max_tokens\":");
                out.extend_from_slice(itoa::Buffer::new().format(*tokens).as_bytes());
                out.push(b',');
            }
            Edit::Preset(_, name, value) => {
                out.extend_from_slice(format!("\"{name}\":{value},").as_bytes());
            }
            Edit::Number(_, number) => {
                out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
            }
            Edit::Cut(_) => {}
        }
        from = span.end;
    }
    out.extend_from_slice(body.get(from..).unwrap_or_default());
    out
}

fn push_model(out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(DEFAULT_MODEL.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_byte_is_kept() {
        let body = br#"{ "a":1.50, "model" : "x","draft_model":null,"b":1e0 }"#;
        let at = |needle: &str| {
            let start = std::str::from_utf8(body).unwrap().find(needle).unwrap();
            start..start + needle.len()
        };
        let mut edits = [Edit::Neutral(at("\"draft_model\"")), Edit::Model(at("\"x\""))];
        let out = apply(body, &mut edits);
        let expected = r#"{ "a":1.50, "model" : "default_model","_":null,"b":1e0 }"#;
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        let out = apply(b"{\"a\":1}", &mut [Edit::Insert(1)]);
        assert_eq!(out, b"{\"model\":\"default_model\",\"a\":1}");
    }

    #[test]
    fn insertions_come_before_a_key_that_is_renamed_there() {
        let body = br#"{"model":null,"max_tokens":9,"prompt":["a"]}"#;
        let mut edits = [
            Edit::Neutral(1..8),
            Edit::Cut(38..39),
            Edit::Cut(42..43),
            Edit::Number(27..28, 5),
            Edit::InsertTokens(1, 7),
            Edit::Insert(1),
        ];
        let expected = r#"{"max_tokens":7,"model":"default_model","_":null,"max_tokens":5,"prompt":"a"}"#;
        assert_eq!(std::str::from_utf8(&apply(body, &mut edits)).unwrap(), expected);
    }
}
