//! What a key of the registry is, and the macros that write tables of keys and enums of words.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use crate::registry::reader::Section;
use crate::units::Percent;

/// Upper bound of numbers that mlx_lm leaves unbounded; nothing larger is useful.
pub(crate) const MANY: i64 = u32::MAX as i64;

/// The keys of one TOML table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys {
    /// Its path in the file: `network`, `model.server`.
    pub table: &'static str,
    pub rows: &'static [Key],
}

/// A table of the registry as it was written.
pub(crate) trait Table {
    const KEYS: Keys;
}

/// One key, as `docs/registry.md` and `mlxctl init` describe it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub name: &'static str,
    /// Its type, with its range or its words.
    pub kind: fn() -> String,
    /// The value of a key that is left out, as TOML in backticks; or `required`, `–` for none, or words.
    pub default: fn() -> String,
    /// Its documentation in Markdown, line by line.
    pub about: &'static [&'static str],
    /// The keys of a table, or of each table in a list.
    #[cfg(test)]
    pub below: Option<&'static Keys>,
}

impl Key {
    /// The default as TOML; `None` if it is described in words.
    pub(crate) fn value(&self) -> Option<String> {
        let default = (self.default)();
        let value = default.trim_matches('`');
        let is_toml =
            value.starts_with(['"', '[']) || value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
        is_toml.then(|| value.to_owned())
    }

    /// Its documentation as one line of Markdown.
    pub(crate) fn meaning(&self) -> String {
        self.about.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

/// Where a table is, and which of its keys were written, even if malformed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// `None` if the table was not written, or is something else.
    pub table: Option<Range<usize>>,
    written: BTreeSet<String>,
}

impl Place {
    pub(crate) fn of(section: &Section<'_>) -> Self {
        Self { table: section.place(), written: section.keys() }
    }

    /// The place of the table, for what is missing from it.
    pub(crate) fn span(&self) -> Range<usize> {
        self.table.clone().unwrap_or_default()
    }

    /// Whether no key was written in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Whether `key` was written, even if malformed.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.written.contains(key)
    }
}

/// What was written in one table, filled up from another.
pub(crate) trait Over {
    fn over(&self, shared: &Self) -> Self;
}

impl<T: Clone> Over for Option<T> {
    fn over(&self, shared: &Self) -> Self {
        self.as_ref().or(shared.as_ref()).cloned()
    }
}

impl<T: Clone> Over for Vec<T> {
    fn over(&self, shared: &Self) -> Self {
        if self.is_empty() { shared.clone() } else { self.clone() }
    }
}

/// An enum that is written as one of a few words.
pub(crate) trait Words: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

/// `number, 1 to 4096`; a bound that is only the type's is omitted.
pub(crate) fn range(range: &RangeInclusive<i64>) -> String {
    match (*range.start(), *range.end()) {
        (0, MANY) => "number".to_owned(),
        (low, MANY) => format!("number, from {low}"),
        (low, high) => format!("number, {low} to {high}"),
    }
}

/// A range of percentages, as in `share, 5% to 95%`.
pub(crate) fn shares(range: &RangeInclusive<u8>) -> String {
    format!("share, {} to {}", Percent(*range.start()), Percent(*range.end()))
}

/// `` `off`, `weights` or `default` ``
pub(crate) fn either<W: Words>() -> String {
    let words: Vec<_> = W::WORDS.iter().map(|(word, _)| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => String::new(),
    }
}

/// Enums that are written as one of a few words, in the registry and in documents.
macro_rules! words {
    ($(
        $(#[$about:meta])*
        pub enum $type:ident { $($(#[$of:meta])* $value:ident = $word:literal,)* }
    )*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$of])* #[serde(rename = $word)] $value,)*
        }

        impl Words for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$value)),*];
        }

        impl $type {
            /// The word for it in the registry and in documents.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $word),*
                }
            }
        }
    )*};
}

/// Writes one table of keys: what was written (`RawX`), how it is read, and how it is documented. A row is
///
/// ```text
/// /// what it means, as docs/registry.md says it
/// field: kind(range, words or example) = default => "the default in words";
/// ```
///
/// Without `= default`, a key that is left out is `None`; with words instead, the code that resolves the table finds
/// the default. A key that is not a Rust name is `field as "key"`. With `Valid(arguments) from RawX`, the valid struct
/// is written as well: `RawX::valid` fills in the defaults, which may use the arguments.
macro_rules! keys {
    ($raw:ident of $table:literal { $($rows:tt)* }) => {
        keys!(@raw $raw of $table { $($rows)* });
        keys!(@defaults $raw { $($rows)* });
    };

    ($(#[$about:meta])* $valid:ident($($given:ident: $type:ty),*) from $raw:ident of $table:literal { $($rows:tt)* }) => {
        keys!(@raw $raw of $table { $($rows)* });
        keys!(@valid [$(#[$about])*] $valid [$($given: $type),*] $raw { $($rows)* });
    };

    (@raw $raw:ident of $table:literal {$(
        $(#[doc = $about:literal])+
        $field:ident $(as $name:literal)?: $kind:ident $(($($arg:tt)*))? $(= $default:expr)? $(=> $said:literal)?;
    )*}) => {
        #[derive(Debug, Clone, Default)]
        pub(crate) struct $raw {
            pub at: Place,
            $(pub $field: keys!(@written $kind $(($($arg)*))?),)*
        }

        impl Table for $raw {
            const KEYS: Keys = Keys {
                table: $table,
                rows: &[$(Key {
                    name: keys!(@name $field $($name)?),
                    kind: || keys!(@kind $kind $(($($arg)*))?),
                    default: keys!(@default [$kind $(($($arg)*))?] [$($default)?] [$($said)?]),
                    about: &[$($about),+],
                    #[cfg(test)]
                    below: keys!(@below $kind $(($($arg)*))?),
                }),*],
            };
        }

        impl $raw {
            pub(crate) fn read(section: &Section<'_>) -> Self {
                Self {
                    at: Place::of(section),
                    $($field: keys!(@read section, keys!(@name $field $($name)?), $kind $(($($arg)*))?),)*
                }
            }
        }

        impl Over for $raw {
            fn over(&self, shared: &Self) -> Self {
                Self { at: self.at.clone(), $($field: self.$field.over(&shared.$field),)* }
            }
        }
    };

    // The effective value of each key that has a fixed default.
    (@defaults $raw:ident {$(
        $(#[doc = $about:literal])+
        $field:ident $(as $name:literal)?: $kind:ident $(($($arg:tt)*))? $(= $default:expr)? $(=> $said:literal)?;
    )*}) => {
        impl $raw {
            $(keys!(@in_force $field [$kind $(($($arg)*))?] [$($default)?] [$($said)?]);)*
        }
    };
    (@in_force $field:ident [$($kind:tt)+] [$default:expr] []) => {
        pub(crate) fn $field(&self) -> keys!(@type [$($kind)+] [$default]) {
            keys!(@value self.$field, [$($kind)+] [$default])
        }
    };
    (@in_force $field:ident [$($kind:tt)+] [$($default:expr)?] [$($said:literal)?]) => {};

    (@valid [$($about:tt)*] $valid:ident [$($given:ident: $type:ty),*] $raw:ident {$(
        $(#[doc = $doc:literal])+
        $field:ident $(as $name:literal)?: $kind:ident $(($($arg:tt)*))? $(= $default:expr)? $(=> $said:literal)?;
    )*}) => {
        $($about)*
        pub struct $valid {
            $($(#[doc = $doc])+ pub $field: keys!(@type [$kind $(($($arg)*))?] [$($default)?]),)*
        }

        impl $raw {
            /// The valid values: what was written, or the default.
            pub(crate) fn valid(&self $(, $given: $type)*) -> $valid {
                $valid { $($field: keys!(@value self.$field, [$kind $(($($arg)*))?] [$($default)?]),)* }
            }
        }
    };

    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };

    // The type of a kind as written.
    (@written tables($raw:ty)) => { Vec<$raw> };
    (@written table($raw:ty)) => { $raw };
    (@written names($raw:ty, $example:literal)) => { Vec<NameOr<$raw>> };
    (@written list($example:literal)) => { Maybe<Vec<At<String>>> };
    (@written words($type:ty, $wrong:literal)) => { Maybe<Vec<At<$type>>> };
    (@written $($kind:tt)+) => { Maybe<keys!(@one $($kind)+)> };
    (@one flag) => { bool };
    (@one size $(($zero:ident))?) => { Bytes };
    (@one time) => { Duration };
    (@one hours) => { Hours };
    (@one percent($range:expr)) => { Percent };
    (@one number($type:ty, $range:expr)) => { $type };
    (@one real($range:expr)) => { f64 };
    (@one word($type:ty)) => { $type };
    (@one $text:ident($example:literal)) => { String };

    // The type of a kind once it is valid.
    (@type [$($kind:tt)+] [$default:expr]) => { keys!(@held $($kind)+) };
    (@type [$($kind:tt)+] []) => { Option<keys!(@held $($kind)+)> };
    (@held path($example:literal)) => { PathBuf };
    (@held list($example:literal)) => { Vec<String> };
    (@held words($type:ty, $wrong:literal)) => { BTreeSet<$type> };
    (@held $($kind:tt)+) => { keys!(@one $($kind)+) };
    (@value $value:expr, [list($example:literal)] [$default:expr]) => {
        match &$value {
            Some(list) => list.value.iter().map(|text| text.value.clone()).collect(),
            None => $default,
        }
    };
    (@value $value:expr, [words($type:ty, $wrong:literal)] [$default:expr]) => {
        match &$value {
            Some(list) => list.value.iter().map(|word| word.value).collect(),
            None => $default,
        }
    };
    (@value $value:expr, [path($example:literal)] [$default:expr]) => {
        $value.as_ref().map_or_else(|| $default, |at| PathBuf::from(&at.value))
    };
    (@value $value:expr, [path($example:literal)] []) => {
        $value.as_ref().map(|at| PathBuf::from(&at.value))
    };
    (@value $value:expr, [$($kind:tt)+] [$default:expr]) => {
        $value.as_ref().map_or_else(|| $default, |at| at.value.clone())
    };
    (@value $value:expr, [$($kind:tt)+] []) => { $value.as_ref().map(|at| at.value.clone()) };

    (@read $section:ident, $key:expr, flag) => { $section.flag($key) };
    (@read $section:ident, $key:expr, size) => { $section.size($key, false) };
    (@read $section:ident, $key:expr, size(zero)) => { $section.size($key, true) };
    (@read $section:ident, $key:expr, hours) => { $section.hours($key) };
    (@read $section:ident, $key:expr, time) => { $section.duration($key) };
    (@read $section:ident, $key:expr, percent($range:expr)) => { $section.percent($key, $range) };
    (@read $section:ident, $key:expr, number($type:ty, $range:expr)) => { $section.whole($key, $range) };
    (@read $section:ident, $key:expr, real($range:expr)) => { $section.number($key, $range) };
    (@read $section:ident, $key:expr, word($type:ty)) => { $section.choice($key, <$type as Words>::WORDS) };
    (@read $section:ident, $key:expr, words($type:ty, $wrong:literal)) => {
        $section.choices($key, <$type as Words>::WORDS, $wrong)
    };
    (@read $section:ident, $key:expr, list($example:literal)) => { $section.texts($key, $example) };
    (@read $section:ident, $key:expr, tables($raw:ty)) => { $section.sections($key, <$raw>::read) };
    (@read $section:ident, $key:expr, table($raw:ty)) => { $section.section($key, <$raw>::read) };
    (@read $section:ident, $key:expr, names($raw:ty, $example:literal)) => {
        $section.names($key, $example, <$raw>::read)
    };
    (@read $section:ident, $key:expr, $text:ident($example:literal)) => { $section.text($key, $example) };

    (@kind number($type:ty, $range:expr)) => { range(&($range)) };
    (@kind real($range:expr)) => { format!("number, {} to {}", $range.start(), $range.end()) };
    (@kind percent($range:expr)) => { shares(&($range)) };
    (@kind hours) => { "range of hours, or list of them".to_owned() };
    (@kind word($type:ty)) => { either::<$type>() };
    (@kind words($type:ty, $wrong:literal)) => { format!("list of {}", either::<$type>()) };
    (@kind table($raw:ty)) => { "table".to_owned() };
    (@kind tables($raw:ty)) => { "list of tables".to_owned() };
    (@kind names($raw:ty, $example:literal)) => { "list of names or tables".to_owned() };
    (@kind $kind:ident $(($($arg:tt)*))?) => { stringify!($kind).to_owned() };

    (@default [$($kind:tt)+] [] []) => { || "–".to_owned() };
    (@default [$($kind:tt)+] [$default:expr] []) => {
        || {
            let value: keys!(@held $($kind)+) = $default;
            format!("`{}`", value.written())
        }
    };
    (@default [$($kind:tt)+] [$($default:expr)?] [$said:literal]) => { || $said.to_owned() };

    (@below tables($raw:ty)) => { Some(&<$raw>::KEYS) };
    (@below table($raw:ty)) => { Some(&<$raw>::KEYS) };
    (@below names($raw:ty, $example:literal)) => { Some(&<$raw>::KEYS) };
    (@below $($kind:tt)+) => { None };
}

pub(in crate::registry) use {keys, words};
