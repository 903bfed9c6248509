//! Aligns periodic work, so that an idle laptop wakes once, not many times.

use std::cell::OnceCell;
use std::time::Duration;

use tokio::time::Instant;

thread_local! {
    /// The first beat. The supervisor's runtime has one thread; another thread would have its own beats.
    static FIRST: OnceCell<Instant> = const { OnceCell::new() };
}

/// The time until the next multiple of `every` since the first beat: above zero, and at most `every`.
pub(crate) fn wait(every: Duration) -> Duration {
    let now = Instant::now();
    let first = FIRST.with(|first| *first.get_or_init(|| now));
    left(now.saturating_duration_since(first), every)
}

/// What remains of the interval `every` in which `passed` ends.
fn left(passed: Duration, every: Duration) -> Duration {
    let into = passed.as_nanos().checked_rem(every.as_nanos()).unwrap_or_default();
    every.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_never_now_and_never_later_than_an_interval() {
        let seconds = Duration::from_secs;
        assert_eq!(left(seconds(0), seconds(10)), seconds(10));
        assert_eq!(left(seconds(3), seconds(10)), seconds(7));
        assert_eq!(left(seconds(40), seconds(10)), seconds(10));
        assert_eq!(left(Duration::from_millis(39_999), seconds(10)), Duration::from_millis(1));
        assert_eq!(left(seconds(3), Duration::ZERO), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_beat_wakes_up_with_the_others() {
        let every = Duration::from_secs(10);
        let first = Instant::now() + wait(every);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(Instant::now() + wait(every), first);
        tokio::time::sleep_until(first).await;
        assert_eq!(wait(every), every);
    }
}
