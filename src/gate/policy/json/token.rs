//! Values that contain no others: strings, numbers, words.

use super::{Scan, Scanner, Text};

/// Maximum length of a number, in bytes; Python raises at 4,301 digits.
pub(super) const NUMBER: usize = 400;

impl<'a> Scanner<'a> {
    /// Reads the string that comes next.
    ///
    /// # Errors
    /// If there is none, or it is not valid.
    pub(crate) fn string(&mut self) -> Scan<Text<'a>> {
        if self.peek() != Some(b'"') {
            return self.fault("a string is expected");
        }
        let start = self.at;
        self.at += 1;
        let mut escapes = 0;
        loop {
            // Within a run of escapes there are no plain bytes to skip.
            if self.bytes().get(self.at) != Some(&b'\\') {
                self.at += plain_run(self.bytes().get(self.at..).unwrap_or_default());
            }
            match self.bytes().get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes += self.escape()?;
                }
                Some(_) => return self.fault("a control character in a string"),
                None => return self.fault("a string without an end"),
            }
        }
        let raw = self.text.get(start + 1..self.at).unwrap_or_default();
        self.at += 1;
        Ok(Text { raw, span: start..self.at, escapes })
    }

    /// Reads an escape; returns how many bytes longer it is than what it stands for.
    fn escape(&mut self) -> Scan<usize> {
        match self.bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(1)
            }
            Some(b'u') => match self.unicode()? {
                0xD800..0xDC00 => {
                    if self.bytes().get(self.at..self.at + 2) == Some(b"\\u".as_slice())
                        && matches!(self.unicode()?, 0xDC00..0xE000)
                    {
                        return Ok(12 - 4);
                    }
                    self.fault("half a surrogate pair in a string")
                }
                0xDC00..0xE000 => self.fault("half a surrogate pair in a string"),
                0..0x80 => Ok(6 - 1),
                0x80..0x800 => Ok(6 - 2),
                _ => Ok(6 - 3),
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

    /// Reads the number that comes next, as it is written.
    ///
    /// # Errors
    /// If there is none, or it is not valid.
    pub(crate) fn number(&mut self) -> Scan<&'a str> {
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
    /// If none of them comes next.
    pub(crate) fn word(&mut self) -> Scan<Option<bool>> {
        self.peek();
        for (word, value) in [("true", Some(true)), ("false", Some(false)), ("null", None)] {
            if self.bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.fault("a value is expected")
    }
}

/// How many bytes at the start are plain: no quote, no backslash, no control character. Two passes, since each handles
/// many bytes at once and one search for all three would not.
fn plain_run(bytes: &[u8]) -> usize {
    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let run = bytes.get(..end).unwrap_or_default();
    if least(run) >= b' ' {
        return end;
    }
    run.iter().position(|byte| *byte < b' ').unwrap_or(end)
}

/// The smallest of the bytes. A block is several registers wide, so that one need not wait for the one before.
fn least(bytes: &[u8]) -> u8 {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut lanes = [u8::MAX; 64];
    for block in blocks {
        for (least, byte) in lanes.iter_mut().zip(block) {
            *least = (*least).min(*byte);
        }
    }
    lanes.iter().chain(rest).fold(u8::MAX, |least, byte| least.min(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_run_of_plain_bytes_ends_where_a_slow_search_says(
            bytes in proptest::collection::vec(prop_oneof![200 => b' '..=b'!', 1 => any::<u8>()], 0..300)
        ) {
            let slow = bytes.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(bytes.len());
            prop_assert_eq!(plain_run(&bytes), slow);
        }
    }
}
