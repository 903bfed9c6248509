//! A scanner over JSON text: it checks every byte, builds nothing, and tells where things are.
//!
//! Stricter than Python's `json` (no `NaN`, no lone surrogates, no numbers of thousands of digits, no deep
//! nesting), so that whatever passes here cannot raise there.

use std::borrow::Cow;
use std::ops::Range;

/// Arrays and objects inside one another, at most; Python raises at about a thousand.
pub const DEPTH: u32 = 64;
/// Bytes of one number, at most; Python raises at 4,301 digits.
pub const NUMBER: usize = 400;

/// Where and why the text is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Byte offset.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// The kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true`, `false`
    Bool,
    /// A number
    Number,
    /// A string
    String,
    /// `[…]`
    Array,
    /// `{…}`
    Object,
}

impl Kind {
    /// For people: "a string".
    #[must_use]
    pub fn name(self) -> &'static str {
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
pub struct Text<'a> {
    /// What stands between the quotes.
    pub raw: &'a str,
    /// Where it stands, quotes included.
    pub span: Range<usize>,
    escaped: bool,
}

impl<'a> Text<'a> {
    /// What it means.
    #[must_use]
    pub fn decoded(&self) -> Cow<'a, str> {
        if !self.escaped {
            return Cow::Borrowed(self.raw);
        }
        // The quotes are put back: serde_json reads whole strings only.
        let quoted = format!("\"{}\"", self.raw);
        Cow::Owned(serde_json::from_str(&quoted).unwrap_or_default())
    }
}

/// Reads a text from front to back.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

type Scan<T> = Result<T, Fault>;

impl<'a> Scanner<'a> {
    /// At the beginning of `text`.
    ///
    /// # Errors
    /// When it is no UTF-8.
    pub fn new(text: &'a [u8]) -> Scan<Self> {
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Self { text, at: 0, depth: 0 }),
            Err(error) => Err(Fault { at: error.valid_up_to(), what: "it is not UTF-8" }),
        }
    }

    /// Where the next byte stands.
    #[must_use]
    pub fn position(&self) -> usize {
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
    pub fn kind(&mut self) -> Scan<Kind> {
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
    pub fn enter(&mut self) -> Scan<()> {
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
    pub fn item(&mut self, first: &mut bool) -> Scan<bool> {
        self.separator(first, b']')
    }

    /// Steps to the next value of the object that was entered and returns its key; `None`: it ended.
    ///
    /// # Errors
    /// When neither comes next.
    pub fn member(&mut self, first: &mut bool) -> Scan<Option<Text<'a>>> {
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
        if std::mem::take(first) {
            return Ok(true);
        }
        if next != Some(b',') {
            return self.fault("a comma or the end is expected");
        }
        self.at += 1;
        // A comma before the end is Python's syntax, not JSON's.
        if self.peek() == Some(close) {
            return self.fault("a value is expected after the comma");
        }
        Ok(true)
    }

    /// The string that comes next.
    ///
    /// # Errors
    /// When none does, or it is not valid.
    pub fn string(&mut self) -> Scan<Text<'a>> {
        if self.peek() != Some(b'"') {
            return self.fault("a string is expected");
        }
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain_run(self.bytes().get(self.at..).unwrap_or_default());
            match self.bytes().get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fault("a control character in a string"),
                None => return self.fault("a string without an end"),
            }
        }
        let raw = self.text.get(start + 1..self.at).unwrap_or_default();
        self.at += 1;
        Ok(Text { raw, span: start..self.at, escaped })
    }

    fn escape(&mut self) -> Scan<()> {
        match self.bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match self.unicode()? {
                0xD800..0xDC00 => {
                    if self.bytes().get(self.at..self.at + 2) == Some(b"\\u".as_slice())
                        && matches!(self.unicode()?, 0xDC00..0xE000)
                    {
                        return Ok(());
                    }
                    self.fault("half a surrogate pair in a string")
                }
                0xDC00..0xE000 => self.fault("half a surrogate pair in a string"),
                _ => Ok(()),
            },
            _ => self.fault("an unknown escape in a string"),
        }
    }

    fn unicode(&mut self) -> Scan<u32> {
        let digits = self.text.get(self.at + 2..self.at + 6).unwrap_or_default();
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return self.fault("an unknown escape in a string");
        }
        let Ok(unit) = u32::from_str_radix(digits, 16) else {
            return self.fault("an unknown escape in a string");
        };
        self.at += 6;
        Ok(unit)
    }

    /// The number that comes next, as it is written.
    ///
    /// # Errors
    /// When none does, or it is not valid.
    pub fn number(&mut self) -> Scan<&'a str> {
        self.peek();
        let start = self.at;
        let bytes = self.bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
        let whole = at;
        at = digits(at);
        if at == whole || (bytes.get(whole) == Some(&b'0') && at > whole + 1) {
            return self.fault("a number is expected");
        }
        if bytes.get(at) == Some(&b'.') {
            let fraction = at + 1;
            at = digits(fraction);
            if at == fraction {
                return self.fault("a digit is expected after the point");
            }
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let exponent = at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            at = digits(exponent);
            if at == exponent {
                return self.fault("a digit is expected in the exponent");
            }
        }
        if at - start > NUMBER {
            return self.fault("a number of too many digits");
        }
        self.at = at;
        Ok(self.text.get(start..at).unwrap_or_default())
    }

    /// `true`, `false` or `null`: `Some(true)`, `Some(false)`, `None`.
    ///
    /// # Errors
    /// When none of them comes next.
    pub fn word(&mut self) -> Scan<Option<bool>> {
        self.peek();
        for (word, value) in [("true", Some(true)), ("false", Some(false)), ("null", None)] {
            if self.bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.fault("a value is expected")
    }

    /// Checks the value that comes next, whatever it is; `text` is told the bytes of every string in it.
    ///
    /// # Errors
    /// When it is not valid.
    pub fn skip(&mut self, text: &mut u64) -> Scan<()> {
        let mut first = true;
        match self.kind()? {
            Kind::Null | Kind::Bool => self.word().map(drop),
            Kind::Number => self.number().map(drop),
            Kind::String => {
                *text += self.string()?.raw.len() as u64;
                Ok(())
            }
            Kind::Array => {
                self.enter()?;
                while self.item(&mut first)? {
                    self.skip(text)?;
                }
                Ok(())
            }
            Kind::Object => {
                self.enter()?;
                while let Some(key) = self.member(&mut first)? {
                    *text += key.raw.len() as u64;
                    self.skip(text)?;
                }
                Ok(())
            }
        }
    }

    /// Nothing but white space is left.
    ///
    /// # Errors
    /// When something is.
    pub fn end(&mut self) -> Scan<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.fault("something follows the end"),
        }
    }
}

/// How many bytes at the front need no look: no quote, no backslash, no control character. Two passes, since each
/// of them runs over many bytes at once and a search for all three would not.
fn plain_run(bytes: &[u8]) -> usize {
    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let run = bytes.get(..end).unwrap_or_default();
    if run.iter().fold(u8::MAX, |least, byte| least.min(*byte)) >= b' ' {
        return end;
    }
    run.iter().position(|byte| *byte < b' ').unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &[u8]) -> Scan<u64> {
        let mut scanner = Scanner::new(text)?;
        let mut count = 0;
        scanner.skip(&mut count)?;
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
            prop_assert_eq!(scanner.string().unwrap().decoded(), text);
        }

        #[test]
        fn a_run_of_plain_bytes_ends_where_a_slow_search_says(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let slow = bytes.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(bytes.len());
            prop_assert_eq!(plain_run(&bytes), slow);
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
        assert!(check("9".repeat(NUMBER + 1).as_bytes()).is_err());
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(check(deep(DEPTH as usize).as_bytes()).is_ok());
        assert!(check(deep(DEPTH as usize + 1).as_bytes()).is_err());
        assert!(check(deep(1_000_000).as_bytes()).is_err());
    }
}
