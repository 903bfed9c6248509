//! Changes to a body that leave every other byte as it was.

use std::ops::Range;

use super::json::Text;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// The value of `model` becomes the served one.
    Model(Range<usize>),
    /// There is no `model`: it is put in behind the opening brace.
    Insert(usize),
    /// The key becomes `_`, which the server does not read.
    Neutral(Range<usize>),
}

impl Edit {
    /// Renames a key.
    #[must_use]
    pub fn neutral(key: &Text<'_>) -> Self {
        Self::Neutral(key.span.clone())
    }

    fn span(&self) -> Range<usize> {
        match self {
            Self::Model(span) | Self::Neutral(span) => span.clone(),
            Self::Insert(at) => *at..*at,
        }
    }
}

/// `body` with the changes, which must not overlap. `served` is a JSON string with its quotes.
#[must_use]
pub fn apply(body: &[u8], edits: &mut [Edit], served: &str) -> Vec<u8> {
    edits.sort_by_key(|edit| edit.span().start);
    let mut out = Vec::with_capacity(body.len() + served.len() + 16);
    let mut from = 0;
    for edit in edits {
        let span = edit.span();
        out.extend_from_slice(body.get(from..span.start).unwrap_or_default());
        match edit {
            Edit::Model(_) => out.extend_from_slice(served.as_bytes()),
            Edit::Neutral(_) => out.extend_from_slice(b"\"_\""),
            Edit::Insert(_) => {
                out.extend_from_slice(b"\"model\":");
                out.extend_from_slice(served.as_bytes());
                out.push(b',');
            }
        }
        from = span.end;
    }
    out.extend_from_slice(body.get(from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_byte_stays() {
        let body = br#"{ "a":1.50, "model" : "x","draft_model":null,"b":1e0 }"#;
        let at = |needle: &str| {
            let start = std::str::from_utf8(body).unwrap().find(needle).unwrap();
            start..start + needle.len()
        };
        let mut edits = [Edit::Neutral(at("\"draft_model\"")), Edit::Model(at("\"x\""))];
        let out = apply(body, &mut edits, "\"s\"");
        assert_eq!(std::str::from_utf8(&out).unwrap(), r#"{ "a":1.50, "model" : "s","_":null,"b":1e0 }"#);
        let out = apply(b"{\"a\":1}", &mut [Edit::Insert(1)], "\"s\"");
        assert_eq!(out, b"{\"model\":\"s\",\"a\":1}");
    }
}
