//! A scanner over JSON text: it checks every byte, builds nothing, and tells where things are.
//!
//! Stricter than Python's `json` (no `NaN`, no lone surrogates, no numbers of thousands of digits, no deep
//! nesting), so that whatever passes here cannot raise there.

mod token;

use std::borrow::Cow;
use std::ops::Range;

/// Arrays and objects inside one another, at most; Python raises at about a thousand.
pub(crate) const DEPTH: u32 = 64;
/// Values in one text, at most: each of them costs the reader behind this one about a hundred bytes, and 10 MB of `[],`
/// would be three million of them. A long chat has some ten thousand.
pub(crate) const VALUES: u32 = 200_000;

/// Where and why the text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Byte offset.
    pub at: usize,
    pub what: &'static str,
}

/// The kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    /// `true`, `false`
    Bool,
    Number,
    String,
    /// `[…]`
    Array,
    /// `{…}`
    Object,
}

impl Kind {
    /// For people: "a string".
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

/// A string as it stands in the text, without its quotes; its escapes are known to be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    pub raw: &'a str,
    pub span: Range<usize>,
    escapes: usize,
}

impl<'a> Text<'a> {
    /// Bytes of what it means, in UTF-8. An ASCII-only client writes six for a character of two or three.
    pub(crate) fn length(&self) -> u64 {
        (self.raw.len() - self.escapes) as u64
    }

    /// Whether it means nothing but white space. Looks no further than to the first character that is none.
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

    /// What it means.
    pub(crate) fn decoded(&self) -> Cow<'a, str> {
        if self.escapes == 0 {
            return Cow::Borrowed(self.raw);
        }
        // The quotes are put back: serde_json reads whole strings only.
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
    /// At the beginning of `text`.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub(crate) fn new(text: &'a [u8]) -> Scan<Self> {
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Self { text, at: 0, depth: 0, values: 0 }),
            Err(error) => Err(Fault { at: error.valid_up_to(), what: "it is not UTF-8" }),
        }
    }

    /// Where the next byte stands.
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
    /// When no value does.
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

    /// Steps over the bracket or brace that opens what comes next.
    ///
    /// # Errors
    /// When it does not, or the nesting is too deep.
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

    /// Steps to the next item of the array that was entered; `false`: it ended. `first` starts as true.
    ///
    /// # Errors
    /// When neither comes next.
    pub(crate) fn item(&mut self, first: &mut bool) -> Scan<bool> {
        self.separator(first, b']')
    }

    /// Steps to the next value of the object that was entered and returns its key; `None`: it ended.
    ///
    /// # Errors
    /// When neither comes next.
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
        // A comma before the end is Python's syntax, not JSON's.
        if self.peek() == Some(close) {
            return self.fault("expected a value after the comma");
        }
        Ok(true)
    }

    /// Checks the value that comes next, whatever it is, and returns the bytes that it takes.
    pub(crate) fn skip(&mut self) -> Scan<u64> {
        Ok(self.raw()?.len() as u64)
    }

    /// The value that comes next, as it is written.
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

    /// Nothing but white space is left.
    ///
    /// # Errors
    /// When something is.
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
        fn it_accepts_what_serde_accepts_and_nothing_else(text in r#"[ \[\]{},:"\\ut0-9eE.+\-nulrsfaD8C\n]{0,24}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok()
                // Numbers past f64 are no JSON to serde and fine to Python.
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
        fn blank_is_what_is_blank_when_it_is_decoded(
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
