//! Units: a count of bytes, and a share in percent. Bytes inside, decimal GB outside, GiB only if written so.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A count of bytes, 0 to 2⁶⁴−1. Arithmetic saturates and never wraps.
///
/// Written with a unit ("20GB", "512 MiB"), shown in decimal units with three significant digits ("18.4 GB").
/// In JSON it is the plain number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

const DECIMAL: [(&str, u64); 5] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("B", 1)];
const BINARY: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl Bytes {
    pub const ZERO: Self = Self(0);

    /// `n` · 10⁹ bytes; saturates.
    pub const fn gb(n: u64) -> Self {
        Self(n.saturating_mul(1_000_000_000))
    }

    /// `n` · 10⁶ bytes; saturates.
    pub const fn mb(n: u64) -> Self {
        Self(n.saturating_mul(1_000_000))
    }

    /// The exact size as a registry would write it: `20GB`, `256MB`, `0B`.
    pub fn exact(self) -> String {
        let units = [("GB", Self::gb(1).0), ("MB", Self::mb(1).0)];
        let whole = units.into_iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(("B", 1));
        format!("{}{name}", self.0 / unit)
    }

    /// The difference, or zero if `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `factor` times this, rounded up; `factor` ≥ 0.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "`as` saturates, which is what this type promises"
    )]
    pub fn scale(self, factor: f64) -> Self {
        Self((self.0 as f64 * factor).ceil() as u64)
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

/// Decimal units, three significant digits, rounded half up: `0 B`, `999 B`, `1.50 kB`, `18.4 GB`, `128 GB`.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut index = DECIMAL.iter().position(|(_, size)| self.0 >= *size).unwrap_or(DECIMAL.len() - 1);
        if index == DECIMAL.len() - 1 {
            return f.pad(&format!("{} B", self.0));
        }
        // Rounding may carry into the next unit: 999,950,000 bytes are 1.00 GB, not 1000 MB.
        let mut hundredths = rounded(self.0, DECIMAL[index].1 / 100);
        if hundredths >= 99_950 && index > 0 {
            index -= 1;
            hundredths = rounded(self.0, DECIMAL[index].1 / 100);
        }
        let unit = DECIMAL[index].0;
        let text = match hundredths {
            0..1_000 => format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100),
            1_000..9_995 => {
                let tenths = rounded(hundredths, 10);
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            }
            _ => format!("{} {unit}", rounded(hundredths, 100)),
        };
        f.pad(&text)
    }
}

/// `n / step`, rounded half up; kB's step is 10 bytes.
fn rounded(n: u64, step: u64) -> u64 {
    n / step + u64::from(n % step >= step.div_ceil(2))
}

/// Why a string is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBytesError {
    /// Digits with nothing after them: 20 of what?
    #[error("a size needs a unit: `{0}GB`? `{0}GiB`?")]
    NoUnit(String),
    #[error("`{0}` is not a unit of size; the units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB")]
    Unit(String),
    /// It does not start with a number ≥ 0.
    #[error("`{0}` is not a size; write a number and a unit, for example 20GB")]
    Number(String),
    /// More than 2⁶⁴−1 bytes.
    #[error("`{0}` is more than any machine has")]
    TooLarge(String),
}

/// `20GB`, `1.5 GiB`, `512MiB`: a decimal number, optional blanks, a unit in upper or lower case.
impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
        let (number, unit) = (text[..split].replace('_', ""), text[split..].trim());
        let value: f64 = number.parse().map_err(|_| ParseBytesError::Number(text.to_owned()))?;
        if unit.is_empty() {
            return Err(ParseBytesError::NoUnit(text.to_owned()));
        }
        let size = DECIMAL
            .iter()
            .chain(&BINARY)
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, size)| *size)
            .ok_or_else(|| ParseBytesError::Unit(unit.to_owned()))?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole
                .checked_mul(size)
                .map(Self)
                .ok_or_else(|| ParseBytesError::TooLarge(text.to_owned()));
        }
        let bytes = Self(size).scale(value);
        if bytes.0 == u64::MAX { Err(ParseBytesError::TooLarge(text.to_owned())) } else { Ok(bytes) }
    }
}

/// A share, in whole percent. In JSON it is the plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub u8);

impl Percent {
    pub const ALL: Self = Self(100);

    /// `length` ÷ this share: 10 s at 50% are 20 s.
    pub fn stretched(self, length: std::time::Duration) -> std::time::Duration {
        length.saturating_mul(100) / u32::from(self.0.max(1))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [
            ("20GB", 20_000_000_000),
            ("1.5 GiB", 1_610_612_736),
            ("0B", 0),
            ("7kb", 7_000),
            ("1_000 MB", 1_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_exactly() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (16_000_000, "16MB"),
            (1_300_000_000, "1300MB"),
            (20_000_000_000, "20GB"),
        ] {
            assert_eq!(Bytes(bytes).exact(), text);
            assert_eq!(text.parse(), Ok(Bytes(bytes)));
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        let error = |text: &str| text.parse::<Bytes>().unwrap_err();
        assert_eq!(error("20"), ParseBytesError::NoUnit("20".into()));
        assert_eq!(error("20 apples"), ParseBytesError::Unit("apples".into()));
        assert_eq!(error("-1GB"), ParseBytesError::Number("-1GB".into()));
        assert_eq!(error("99999999999TB"), ParseBytesError::TooLarge("99999999999TB".into()));
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_500, "1.50 kB"),
            (18_431_289_344, "18.4 GB"),
            (128_000_000_000, "128 GB"),
            (999_950_000, "1.00 GB"),
            (99_960_000_000, "100 GB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
