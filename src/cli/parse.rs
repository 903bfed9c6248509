//! Parsers for the values of flags.

use std::time::Duration;

/// Parses `90s`, `5m`, `1h 30m`; a bare number other than 0 is refused, because its unit is unknown.
///
/// # Errors
/// What is wrong with `text`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if !text.trim().is_empty() && text.trim().bytes().all(|byte| byte.is_ascii_digit()) && text.trim() != "0"
    {
        return Err(format!("a duration needs a unit: `{0}s`? `{0}m`?", text.trim()));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; for example 90s, 5m or 1h 30m"))
}

/// Parses a duration as [`duration`] does, but refuses zero.
///
/// # Errors
/// What is wrong with `text`.
pub(super) fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than 0, for example 90m or 3h".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(some_duration("0s").unwrap_err().contains("longer than 0"));
        assert_eq!(some_duration("3h"), Ok(Duration::from_secs(10_800)));
        assert!(duration("90").unwrap_err().contains("`90s`?"));
        for text in ["", "-5s", "soon", "5 apples"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
