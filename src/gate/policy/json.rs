//! A scanner over JSON text that checks every byte, builds no values, and reports where things are.
//!
//! Stricter than Python's `json` (no `NaN`, no lone surrogates, no numbers of thousands of digits, no deep nesting), so
//! that what passes here cannot raise an exception there.

mod token;

use std::borrow::Cow;
use std::ops::Range;

/// Maximum nesting of arrays and objects; Python raises at about a thousand.
pub(crate) const DEPTH: u32 = 64;
/// Maximum number of values in one text: each costs the server about a hundred bytes, and 10 MB of `[],` would be three
/// million of them. A long chat has about ten thousand.
pub(crate) const VALUES: u32 = 200_000;

/// Where and why the text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Offset from the beginning, in bytes.
    pub at: usize,
    pub what: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// For messages, with an article: "a string".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A string as it is written, without its quotes; its escapes are valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    pub raw: &'a str,
    pub span: Range<usize>,
    escapes: usize,
}

impl<'a> Text<'a> {
    /// Length of the decoded string in UTF-8 bytes. A client that escapes all but ASCII writes six for two or three.
    pub(crate) fn length(&self) -> u64 {
        (self.raw.len() - self.escapes) as u64
    }

    /// Whether the decoded string is only white space. Stops at the first other character.
    pub(crate) fn is_blank(&self) -> bool {
        let mut rest = self.raw;
        loop {
            rest = rest.trim_start();
            let Some(escape) = rest.strip_prefix('\\') else { return rest.is_empty() };
            let after = match escape.as_bytes().first() {
                Some(b'n' | b'r' | b't' | b'f') => 1,
                Some(b'u') => {
                    let unit = escape.get(1..5).and_then(|digits| u32::from_str_radix(digits, 16).ok());
                    if !unit.and_then(char::from_u32).is_some_and(char::is_whitespace) {
                        return false;
                    }
                    5
                }
                _ => return false,
            };
            rest = escape.get(after..).unwrap_or_default();
        }
    }

    /// The string with its escapes decoded.
    pub(crate) fn decoded(&self) -> Cow<'a, str> {
        if self.escapes == 0 {
            return Cow::Borrowed(self.raw);
        }
        // serde_json parses whole strings only, so the quotes are put back.
        let quoted = format!("\"{}\"", self.raw);
        Cow::Owned(serde_json::from_str(&quoted).unwrap_or_default())
    }
}

/// Reads a text from front to back.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    values: u32,
}

type Scan<T> = Result<T, Fault>;

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `text`.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub(crate) fn new(text: &'a [u8]) -> Scan<Self> {
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Self { text, at: 0, depth: 0, values: 0 }),
            Err(error) => Err(Fault { at: error.valid_up_to(), what: "it is not UTF-8" }),
        }
    }

    /// Offset of the next byte, from 0.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn fault<T>(&self, what: &'static str) -> Scan<T> {
        Err(Fault { at: self.at, what })
    }

    fn peek(&mut self) -> Option<u8> {
        let bytes = self.bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// The kind of the value that comes next.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn kind(&mut self) -> Scan<Kind> {
        match self.peek() {
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'"') => Ok(Kind::String),
            Some(b'[') => Ok(Kind::Array),
            Some(b'{') => Ok(Kind::Object),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(_) => self.fault("a value is expected"),
            None => self.fault("it ends too early"),
        }
    }

    /// Steps into the array or object that comes next.
    ///
    /// # Errors
    /// If there is none, or the nesting is too deep.
    pub(crate) fn enter(&mut self) -> Scan<()> {
        if !matches!(self.peek(), Some(b'[' | b'{')) {
            return self.fault("an array or object is expected");
        }
        if self.depth == DEPTH {
            return self.fault("it is nested too deeply");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Steps to the next item of the current array; `false` at its end. `first` must be `true` at the start.
    ///
    /// # Errors
    /// If neither comes next.
    pub(crate) fn item(&mut self, first: &mut bool) -> Scan<bool> {
        self.separator(first, b']')
    }

    /// Steps to the next value of the current object and returns its key; `None` at its end.
    ///
    /// # Errors
    /// If neither comes next.
    pub(crate) fn member(&mut self, first: &mut bool) -> Scan<Option<Text<'a>>> {
        if !self.separator(first, b'}')? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return self.fault("a key in quotes is expected");
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return self.fault("a colon is expected");
        }
        self.at += 1;
        Ok(Some(key))
    }

    fn separator(&mut self, first: &mut bool, close: u8) -> Scan<bool> {
        let next = self.peek();
        if next == Some(close) {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        self.values += 1;
        if self.values > VALUES {
            return self.fault("it holds too many values");
        }
        if std::mem::take(first) {
            return Ok(true);
        }
        if next != Some(b',') {
            return self.fault("a comma or the end is expected");
        }
        self.at += 1;
        // A trailing comma is valid in Python, not in JSON.
        if self.peek() == Some(close) {
            return self.fault("expected a value after the comma");
        }
        Ok(true)
    }

    /// Checks the value that comes next, whatever its kind, and returns its length in bytes.
    pub(crate) fn skip(&mut self) -> Scan<u64> {
        Ok(self.raw()?.len() as u64)
    }

    /// Checks the value that comes next and returns it as it is written.
    pub(crate) fn raw(&mut self) -> Scan<&'a str> {
        self.kind()?;
        let start = self.at;
        self.pass()?;
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    fn pass(&mut self) -> Scan<()> {
        let mut first = true;
        match self.kind()? {
            Kind::Null | Kind::Bool => self.word().map(drop),
            Kind::Number => self.number().map(drop),
            Kind::String => self.string().map(drop),
            Kind::Array => {
                self.enter()?;
                while self.item(&mut first)? {
                    self.pass()?;
                }
                Ok(())
            }
            Kind::Object => {
                self.enter()?;
                while self.member(&mut first)?.is_some() {
                    self.pass()?;
                }
                Ok(())
            }
        }
    }

    /// Checks that only white space is left.
    ///
    /// # Errors
    /// If anything else is.
    pub(crate) fn end(&mut self) -> Scan<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.fault("something follows the end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &[u8]) -> Scan<u64> {
        let mut scanner = Scanner::new(text)?;
        let count = scanner.skip()?;
        scanner.end().map(|()| count)
    }

    proptest! {
        #[test]
        fn the_scanner_accepts_exactly_what_serde_accepts(text in r#"[ \[\]{},:"\\ut0-9eE.+\-nulrsfaD8C\n]{0,24}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok()
                // serde refuses numbers beyond f64, which Python accepts.
                || check(text.as_bytes()).is_ok() && text.contains(['e', 'E']);
            prop_assert_eq!(check(text.as_bytes()).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn every_text_that_serde_writes_passes_and_reads_back(text in ".{0,64}") {
            let json = serde_json::to_string(&text).unwrap();
            let mut scanner = Scanner::new(json.as_bytes()).unwrap();
            let read = scanner.string().unwrap();
            prop_assert_eq!(read.length(), text.len() as u64);
            prop_assert_eq!(read.is_blank(), text.trim().is_empty());
            prop_assert_eq!(read.decoded(), text);
        }

        #[test]
        fn a_string_is_blank_if_it_is_blank_when_decoded(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just(" "), Just("\\n"), Just("\\t"), Just("\\f"), Just("\\u0020"), Just("\\u00a0"), Just("\\u2003"),
                    Just("\\u0085"), Just("\u{3000}"), Just("\\b"), Just("\\u0041"), Just("\\ud83d\\ude00"), Just("a"),
                ],
                0..6,
            )
        ) {
            let json = format!("\"{}\"", parts.concat());
            let mut scanner = Scanner::new(json.as_bytes()).unwrap();
            let read = scanner.string().unwrap();
            prop_assert_eq!(read.is_blank(), read.decoded().trim().is_empty(), "{}", json);
        }
    }

    #[test]
    fn what_raises_in_python_is_refused() {
        for text in [
            "NaN",
            "-Infinity",
            "[1,]",
            "{\"a\":1,}",
            "\"\\ud800\"",
            "\"\\udc00\\ud800\"",
            "\"\\ud800\\u0041\"",
            "01",
            "1.",
            "\"\t\"",
            "'a'",
            "",
            "[1 2]",
            "1 2",
            "\"\\u+123\"",
            "tru",
        ] {
            assert!(check(text.as_bytes()).is_err(), "{text}");
        }
        assert!(check(b"\xff").is_err());
        assert!(check(b"\xef\xbb\xbf{}").is_err());
        assert!(check("9".repeat(token::NUMBER + 1).as_bytes()).is_err());
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(check(deep(DEPTH as usize).as_bytes()).is_ok());
        assert!(check(deep(DEPTH as usize + 1).as_bytes()).is_err());
        assert!(check(deep(1_000_000).as_bytes()).is_err());
        let wide = |n: u32| format!("[{}[]]", "[],".repeat(n as usize - 1));
        assert!(check(wide(VALUES).as_bytes()).is_ok());
        assert!(check(wide(VALUES + 1).as_bytes()).is_err());
    }
}
