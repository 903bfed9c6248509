//! Writes defaults of the registry as TOML.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::table::Words;
use crate::units::Bytes;

/// A default that can be written as TOML.
pub(crate) trait Written {
    fn written(&self) -> String;
}

impl<W: Words> Written for W {
    fn written(&self) -> String {
        let word = Self::WORDS.iter().find(|(_, value)| value == self);
        word.map_or_else(String::new, |(word, _)| format!("\"{word}\""))
    }
}

impl Written for Duration {
    fn written(&self) -> String {
        format!("\"{}\"", humantime::format_duration(*self))
    }
}

impl Written for Bytes {
    fn written(&self) -> String {
        format!("\"{}\"", self.exact())
    }
}

impl Written for PathBuf {
    fn written(&self) -> String {
        format!("\"{}\"", self.display())
    }
}

impl Written for String {
    fn written(&self) -> String {
        format!("\"{self}\"")
    }
}

macro_rules! written_as_shown {
    ($($type:ty)*) => {$(impl Written for $type {
        fn written(&self) -> String {
            self.to_string()
        }
    })*};
}
written_as_shown!(bool i8 u8 u16 u32 u64);

impl<T: Written> Written for Vec<T> {
    fn written(&self) -> String {
        format!("[{}]", self.iter().map(Written::written).collect::<Vec<_>>().join(", "))
    }
}

impl<T: Written> Written for BTreeSet<T> {
    fn written(&self) -> String {
        format!("[{}]", self.iter().map(Written::written).collect::<Vec<_>>().join(", "))
    }
}
