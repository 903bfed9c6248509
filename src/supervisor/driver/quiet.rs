//! At rest: once nothing has happened for a while, memory that was needed for what happened is given back.

use std::time::Duration;

use crate::clock::Moment;

/// So long after the last of what happened. Short against the time for which a supervisor idles, long against the time
/// between two steps of a start.
const QUIET: Duration = Duration::from_secs(5);

/// When something happened that was not followed by a rest yet.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    stirred: Option<Moment>,
}

impl Quiet {
    /// Something happened that takes code or memory which idling does not.
    pub(super) fn stir(&mut self, now: Moment) {
        self.stirred = Some(now);
    }

    /// Whether it is time to give memory back: once after each stir.
    pub(super) fn comes(&mut self, now: Moment) -> bool {
        let quiet = self.stirred.is_some_and(|last| now.since(last) >= QUIET);
        if quiet {
            self.stirred = None;
        }
        quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_comes_once_after_each_stir() {
        let at = |seconds| Moment(Duration::from_secs(seconds));
        let mut rest = Quiet::default();
        assert!(!rest.comes(at(100)));
        rest.stir(at(100));
        assert!(!rest.comes(at(104)));
        rest.stir(at(104));
        assert!(!rest.comes(at(108)));
        assert!(rest.comes(at(109)));
        assert!(!rest.comes(at(200)));
    }
}
