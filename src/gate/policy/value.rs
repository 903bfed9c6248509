//! Checks single values of a request's body: their kind and their range.

use super::json::{Kind, Scanner, Text};
use crate::gate::wire::Refusal;

/// Starts to read a body, which must be an object, and steps into it.
pub(crate) fn object(body: &[u8]) -> Result<Scanner<'_>, Refusal> {
    let mut scanner = Scanner::new(body)?;
    if scanner.kind()? != Kind::Object {
        return Err(Refusal::invalid(None, "the body must be a JSON object".to_owned()));
    }
    scanner.enter()?;
    Ok(scanner)
}

/// Refuses a value of the wrong kind.
pub(crate) fn wrong(name: &str, wanted: &str, found: Kind) -> Refusal {
    Refusal::invalid(Some(name), format!("'{name}' must be {wanted}, not {}", found.name()))
}

pub(crate) fn expect(scanner: &mut Scanner<'_>, name: &str, kind: Kind, wanted: &str) -> Result<(), Refusal> {
    let found = scanner.kind()?;
    if found == kind { Ok(()) } else { Err(wrong(name, wanted, found)) }
}

pub(crate) fn expect_string<'a>(scanner: &mut Scanner<'a>, name: &str) -> Result<Text<'a>, Refusal> {
    expect(scanner, name, Kind::String, "a string")?;
    Ok(scanner.string()?)
}

/// As [`expect_string`], for a name that is built only for the refusal.
pub(crate) fn string_at<'a>(
    scanner: &mut Scanner<'a>,
    name: impl FnOnce() -> String,
) -> Result<Text<'a>, Refusal> {
    match scanner.kind()? {
        Kind::String => Ok(scanner.string()?),
        found => Err(wrong(&name(), "a string", found)),
    }
}

pub(crate) fn boolean(scanner: &mut Scanner<'_>, name: &str) -> Result<bool, Refusal> {
    expect(scanner, name, Kind::Bool, "true or false")?;
    Ok(scanner.word()?.unwrap_or(false))
}

pub(crate) fn integer(scanner: &mut Scanner<'_>, name: &str, min: i64, max: i64) -> Result<i64, Refusal> {
    expect(scanner, name, Kind::Number, "a whole number")?;
    let text = scanner.number()?;
    match text.parse::<i64>() {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => {
            Err(Refusal::invalid(Some(name), format!("'{name}' must be a whole number from {min} to {max}")))
        }
    }
}

pub(crate) fn number(
    scanner: &mut Scanner<'_>,
    name: &str,
    min: f64,
    max: f64,
    least: f64,
    point: bool,
) -> Result<(), Refusal> {
    expect(scanner, name, Kind::Number, "a number")?;
    let text = scanner.number()?;
    let value = text.parse::<f64>().unwrap_or(f64::NAN);
    if point && !text.contains(['.', 'e', 'E']) {
        return Err(Refusal::invalid(Some(name), format!("'{name}' must have a decimal point")));
    }
    // Values too close to zero are refused: the sampler divides by them or takes their logarithm.
    if (min..=max).contains(&value) && (value == 0.0 || value.abs() >= least) {
        return Ok(());
    }
    let small = if least > 0.0 { format!(", and not closer to 0 than {least}") } else { String::new() };
    Err(Refusal::invalid(Some(name), format!("'{name}' must be a number from {min} to {max}{small}")))
}
