//! Numbers formatted for people.

use std::time::Duration;

/// A span with its two largest units: "3m 12s", "2d 4h", "0.4s" below ten seconds.
pub(crate) fn span(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).as_secs();
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A share of one as whole percent: "43 %".
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.0} %", fraction.clamp(0.0, 1.0) * 100.0)
}

/// A number of things: "1 restart", "3 restarts".
pub(crate) fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// A time in UTC (RFC 3339) as the clock on the wall shows it; what cannot be read, as it is.
pub(crate) fn local(at: &str) -> String {
    let local = humantime::parse_rfc3339(at).ok().and_then(crate::host::posix::local_time);
    local.unwrap_or_else(|| at.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, text) in [
            (0.0, "0.0s"),
            (0.44, "0.4s"),
            (9.94, "9.9s"),
            (9.96, "9s"),
            (42.9, "42s"),
            (192.0, "3m 12s"),
            (3_600.0, "1h 0m"),
            (187_200.0, "2d 4h"),
            (-1.0, "0.0s"),
            (f64::NAN, "0.0s"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn shares_stay_between_nothing_and_all() {
        assert_eq!(percent(0.431), "43 %");
        assert_eq!(percent(1.7), "100 %");
        assert_eq!(percent(-0.1), "0 %");
    }

    #[test]
    fn one_thing_is_singular() {
        assert_eq!(count(1, "restart"), "1 restart");
        assert_eq!(count(0, "restart"), "0 restarts");
    }
}
