//! Tokens per second, for answers long enough to have a speed.

use std::time::Duration;

/// With fewer tokens, the speed says more about how the stream was packed than about the model.
const LEAST_TOKENS: u64 = 8;

/// Tokens less than this apart arrived together: two reads of one buffer are microseconds apart.
const LEAST_TIME: Duration = Duration::from_millis(5);

/// `tokens` ÷ `time`; `None` if there are too few of them, or too little time.
#[expect(clippy::cast_precision_loss, reason = "no answer has 2⁵³ tokens")]
pub(crate) fn per_second(tokens: u64, time: Duration) -> Option<f64> {
    (tokens >= LEAST_TOKENS && time >= LEAST_TIME).then(|| tokens as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_answer_has_no_speed() {
        assert_eq!(per_second(3, Duration::from_micros(5)), None, "600,000 tokens per second");
        assert_eq!(per_second(100, Duration::from_micros(168)), None);
        assert_eq!(per_second(7, Duration::from_secs(1)), None);
        assert_eq!(per_second(8, Duration::from_secs(1)), Some(8.0));
    }
}
