//! The progress of a command, in one line.

use super::human;
use super::status::state_word;
use crate::api::{Progress, StateName};

/// "70b  loading 43 %  reading weights, 17.6 GB of 40.9 GB", without the time, which the spinner shows.
pub(crate) fn words(model: &str, progress: &Progress) -> String {
    let mut line = format!("{model}  {}", state_word(progress.state));
    if let Some(fraction) = progress.fraction {
        line.push_str(&format!(" {}", human::percent(fraction)));
    }
    if !progress.text.is_empty() {
        line.push_str(&format!("  {}", progress.text));
    }
    line
}

/// The same for a pipe, with the time: "70b  loading 43 %  … (12s)".
pub(crate) fn line(model: &str, progress: &Progress) -> String {
    format!("{} ({})", words(model, progress), human::span(progress.elapsed_seconds))
}

/// A pipe gets a new line when this changes: the state, or a tenth of the loading.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates: 0 to 10")]
pub(crate) fn step(progress: &Progress) -> (StateName, u8) {
    (progress.state, (progress.fraction.unwrap_or(0.0).clamp(0.0, 1.0) * 10.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: StateName, fraction: Option<f64>, text: &str) -> Progress {
        Progress { state, text: text.into(), fraction, elapsed_seconds: 12.3 }
    }

    #[test]
    fn a_line_says_state_share_what_and_time() {
        let loading = at(StateName::Loading, Some(0.43), "reading weights, 17.6 GB of 40.9 GB");
        assert_eq!(line("70b", &loading), "70b  loading 43 %  reading weights, 17.6 GB of 40.9 GB (12s)");
        assert_eq!(line("70b", &at(StateName::Spawning, None, "")), "70b  spawning (12s)");
    }

    #[test]
    fn a_pipe_gets_a_line_per_state_and_per_tenth() {
        let loading = |fraction| step(&at(StateName::Loading, Some(fraction), ""));
        assert_eq!(loading(0.41), loading(0.49));
        assert_ne!(loading(0.49), loading(0.51));
        assert_ne!(loading(0.0), step(&at(StateName::Spawning, None, "")));
        assert_eq!(loading(f64::NAN), loading(0.0));
    }
}
