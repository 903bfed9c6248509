//! At rest: once nothing has happened for a while, memory that was needed for what happened is given back.

use std::time::Duration;

use crate::clock::Moment;

/// So long after the last of what happened. First short against the time for which a supervisor idles, and long against the
/// time between two steps of a start; then once more, when what follows a start is over as well: the first looks at a new
/// run, and its trim after 45 s.
const RESTS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// When something happened, and how often there was a rest since.
#[derive(Debug)]
pub(super) struct Quiet {
    stirred: Moment,
    rests: usize,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { stirred: Moment::default(), rests: RESTS.len() }
    }
}

impl Quiet {
    /// Something happened that takes code or memory which idling does not.
    pub(super) fn stir(&mut self, now: Moment) {
        (self.stirred, self.rests) = (now, 0);
    }

    /// Whether it is time to give memory back: twice after each stir.
    pub(super) fn comes(&mut self, now: Moment) -> bool {
        let quiet = RESTS.get(self.rests).is_some_and(|rest| now.since(self.stirred) >= *rest);
        if quiet {
            self.rests += 1;
        }
        quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_comes_twice_after_each_stir() {
        let at = |seconds| Moment(Duration::from_secs(seconds));
        let mut rest = Quiet::default();
        assert!(!rest.comes(at(100)));
        rest.stir(at(100));
        assert!(!rest.comes(at(104)));
        rest.stir(at(104));
        assert!(!rest.comes(at(108)));
        assert!(rest.comes(at(109)));
        assert!(!rest.comes(at(163)));
        assert!(rest.comes(at(164)));
        assert!(!rest.comes(at(500)));
    }
}
