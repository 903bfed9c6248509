//! Text from outside (a hub, a configuration, a model's output, a path), made safe for a terminal: escape sequences can
//! change the title, hide lines, or write to the clipboard.

use std::borrow::Cow;

use serde_json::Value;

/// `text` with every control character but newline and tab made visible: `^[` for ESC, as in `cat -v`, and `�` for the
/// C1 controls and those that change the writing direction. A carriage return before a newline is dropped.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if !text.chars().any(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' if rest.peek() == Some(&'\n') => {}
            // The text after it would overwrite the line, as in a progress bar.
            '\r' => shown.push('\n'),
            c if !obeyed(c) => shown.push(c),
            c if c.is_ascii() => shown.extend(['^', char::from(c as u8 ^ 0x40)]),
            _ => shown.push(char::REPLACEMENT_CHARACTER),
        }
    }
    Cow::Owned(shown)
}

fn obeyed(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Applies [`shown`] to every string in a document, keys included.
pub(crate) fn clean(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = shown(text) {
                *text = clean;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(clean),
        Value::Object(map) => {
            if map.keys().any(|key| key.chars().any(obeyed)) {
                *map = std::mem::take(map)
                    .into_iter()
                    .map(|(key, value)| (shown(&key).into_owned(), value))
                    .collect();
            }
            map.values_mut().for_each(clean);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Parses JSON that will be shown, and cleans it.
///
/// # Errors
/// Invalid JSON, or JSON of another shape.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    clean(&mut value);
    serde_json::from_value(value)
}

/// Makes a stream of bytes safe to show, block by block.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// An incomplete character or a carriage return at the end of the last block.
    begun: Vec<u8>,
}

impl Shown {
    /// The text of the next block.
    pub(crate) fn block(&mut self, block: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(block);
        let cut = bytes.len() - unfinished(&bytes);
        self.begun = bytes.split_off(cut);
        shown(&String::from_utf8_lossy(&bytes)).into_owned()
    }
}

/// The length of an incomplete end: a carriage return, or a character with bytes missing.
fn unfinished(bytes: &[u8]) -> usize {
    if bytes.last() == Some(&b'\r') {
        return 1;
    }
    for (back, byte) in bytes.iter().rev().take(3).enumerate() {
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if back + 1 < length { back + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_made_visible() {
        assert!(matches!(shown("plain — ünïcode\n\ttext 中文"), Cow::Borrowed(_)));
        assert_eq!(shown("\x1b]0;owned\x07 \x1b[2J \x7f \0"), "^[]0;owned^G ^[[2J ^? ^@");
        assert_eq!(shown("\u{9b}31m a\u{202e}b"), "\u{fffd}31m a\u{fffd}b");
        assert_eq!(shown("one\r\ntwo\r 10 %\r 20 %\n"), "one\ntwo\n 10 %\n 20 %\n");
    }

    #[test]
    fn every_text_of_a_document_is_cleaned() {
        let text = br#"{"a\u001b": ["\u001b[31m", {"b": "x\ny"}], "n": 1}"#;
        let value: Value = decode(text).unwrap();
        assert_eq!(value, serde_json::json!({"a^[": ["^[[31m", {"b": "x\ny"}], "n": 1}));
    }

    #[test]
    fn a_character_that_comes_in_two_blocks_is_one() {
        let text = "a€\u{9b}\r\nb\u{1f600}\x1b[0m\n".as_bytes();
        for cut in 0..=text.len() {
            let mut stream = Shown::default();
            let both = stream.block(&text[..cut]) + &stream.block(&text[cut..]);
            assert_eq!(both, "a€\u{fffd}\nb\u{1f600}^[[0m\n", "cut at {cut}");
        }
        // Invalid UTF-8 is shown at once and does not block the rest.
        assert_eq!(Shown::default().block(b"\xff\xfe\n"), "\u{fffd}\u{fffd}\n");
    }
}
