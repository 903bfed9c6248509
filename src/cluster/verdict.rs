//! Finds the rank to blame when a group ends: after one dies, the others soon die of that. Pure.

use super::frame::{Beat, Gone, Why};
use crate::backend::diagnose;
use crate::backend::group::Group;
use crate::backend::link::Thread;
use crate::host::Exit;

/// A sign that something is wrong with a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sign {
    /// No sign of life for this many seconds.
    Silent(u64),
    /// Its connection or process ended without a goodbye; the exit code that `mlx.launch` saw.
    Lost(Option<i32>),
    /// Its ssh ended before its first message; the exit code that `mlx.launch` saw.
    Unreached(Option<i32>),
    Died(Option<Exit>, Option<String>),
    /// The generation thread of its Python ended.
    ThreadDied(Option<String>),
    /// Why it could not start Python.
    Obstacle(String),
    /// It did not start within this many seconds.
    Late(u64),
    /// It runs another version of mlxctl.
    Version(String),
}

impl Sign {
    /// The sign in a goodbye; `None` if the rank was asked to end.
    pub(crate) fn of_goodbye(gone: &Gone) -> Option<Self> {
        match &gone.why {
            Why::Asked => None,
            // Its messages arrive, so it is the way down that failed.
            Why::Silence => Some(Self::Lost(None)),
            Why::Died => Some(Self::Died(gone.exit, gone.error.clone())),
            Why::Obstacle(why) => Some(Self::Obstacle(why.clone())),
        }
    }

    /// The sign in a beat, if it has one.
    pub(crate) fn of_beat(beat: &Beat) -> Option<Self> {
        if beat.version != env!("CARGO_PKG_VERSION") {
            return Some(Self::Version(beat.version.clone()));
        }
        (beat.thread == Thread::Dead).then(|| Self::ThreadDied(beat.error.clone()))
    }

    /// Causes come before consequences: a rank whose peer is gone fails with an exception of its transport, or is ended
    /// by `mlx.launch`; it is neither killed by SIGKILL nor prevented from starting.
    fn rank_of_causes(&self) -> u8 {
        let transport = |error: &Option<String>| error.as_deref().is_some_and(speaks_of_a_peer);
        match self {
            Self::Obstacle(_) | Self::Version(_) | Self::Unreached(_) => 0,
            Self::Died(Some(Exit::Signal(libc::SIGKILL)), _) | Self::Silent(_) | Self::Late(_) => 1,
            Self::Died(_, error) | Self::ThreadDied(error) if transport(error) => 4,
            // It ended normally without being asked to, so the cause is elsewhere.
            Self::Died(Some(Exit::Code(0)), _) => 4,
            Self::Died(..) | Self::ThreadDied(_) => 2,
            Self::Lost(_) => 3,
        }
    }

    fn text(&self) -> String {
        let with = |what: String, error: &Option<String>| match error {
            Some(error) => format!("{what}: {error}"),
            None => what,
        };
        match self {
            Self::Silent(seconds) => {
                format!("sent no heartbeat for {seconds} s: its host is cut off or hangs")
            }
            Self::Lost(Some(code)) if *code < 0 => Exit::Signal(-code).to_string(),
            Self::Lost(Some(code)) => format!("ended without a message (mlx.launch saw exit code {code})"),
            Self::Unreached(Some(code)) => format!("could not be reached (mlx.launch saw exit code {code})"),
            Self::Unreached(None) => "could not be reached".to_owned(),
            Self::Lost(None) => "ended without a message".to_owned(),
            Self::Died(exit, error) => with(format!("{}", exit.unwrap_or(Exit::Unknown)), error),
            Self::ThreadDied(error) => with("lost its generation thread".to_owned(), error),
            Self::Obstacle(why) => format!("could not start: {why}"),
            Self::Late(seconds) => format!("did not start within {seconds} s"),
            Self::Version(version) => {
                format!("runs mlxctl {version}, and rank 0 {}", env!("CARGO_PKG_VERSION"))
            }
        }
    }
}

/// Whether an error comes from a transport whose peer is gone.
fn speaks_of_a_peer(error: &str) -> bool {
    let error = error.to_ascii_lowercase();
    ["[ring]", "[jaccl]", "[mpi]", "connection reset", "broken pipe", "socket"]
        .iter()
        .any(|word| error.contains(word))
}

/// The signs so far, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    signs: Vec<(usize, Sign)>,
}

impl Verdict {
    /// Records a sign; only the first of each kind per rank counts.
    pub(crate) fn see(&mut self, rank: usize, sign: Sign) {
        let same = |(known, seen): &(usize, Sign)| {
            *known == rank && std::mem::discriminant(seen) == std::mem::discriminant(&sign)
        };
        if !self.signs.iter().any(same) {
            self.signs.push((rank, sign));
        }
    }

    /// A rank that said goodbye was not lost.
    pub(crate) fn forgive_loss(&mut self, rank: usize) {
        self.signs
            .retain(|(known, sign)| *known != rank || !matches!(sign, Sign::Lost(_) | Sign::Unreached(_)));
    }

    pub(crate) fn is_bad(&self) -> bool {
        !self.signs.is_empty()
    }

    /// The rank to blame and its sign: the likeliest cause, and among equals the first.
    pub(crate) fn culprit(&self) -> Option<(usize, &Sign)> {
        self.signs.iter().min_by_key(|(_, sign)| sign.rank_of_causes()).map(|(rank, sign)| (*rank, sign))
    }

    /// One line for the log, where a diagnosis finds it: rank, host, what happened, and its last message.
    pub(crate) fn line(&self, group: &Group, said: impl Fn(usize) -> String) -> Option<String> {
        let (rank, sign) = self.culprit()?;
        let text = sign.text();
        let said = said(rank);
        let word = diagnose::telling_line(&said).filter(|word| !text.contains(word));
        let word = word.map(|word| format!("; its last message: {word}")).unwrap_or_default();
        Some(format!("{} {text}{word}", group.name(rank)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::group::example;

    fn line(signs: Vec<(usize, Sign)>, said: &str) -> String {
        let mut verdict = Verdict::default();
        signs.into_iter().for_each(|(rank, sign)| verdict.see(rank, sign));
        verdict.line(&example(), |_| said.to_owned()).unwrap()
    }

    #[test]
    fn the_one_that_was_killed_is_named_and_not_those_that_died_of_it() {
        let ring = Some("RuntimeError: [ring] Receiving from socket failed".to_owned());
        let consequence = (0, Sign::ThreadDied(ring.clone()));
        let cause = (1, Sign::Died(Some(Exit::Signal(9)), None));
        let other = (2, Sign::Lost(Some(255)));
        assert_eq!(
            line(vec![consequence.clone(), cause, other.clone()], ""),
            "rank 1 on studio was ended by SIGKILL"
        );
        let orderly = (0, Sign::Died(Some(Exit::Code(0)), None));
        let lost = line(vec![orderly.clone(), (1, Sign::Lost(Some(255)))], "");
        assert!(lost.starts_with("rank 1 on studio ended without a message"), "{lost}");
        assert!(line(vec![orderly, consequence.clone()], "").ends_with("ended with code 0"));
        let lost = line(vec![consequence, (1, Sign::Lost(Some(255))), other], "");
        assert!(lost.starts_with("rank 1 on studio ended without a message"), "{lost}");
    }

    #[test]
    fn its_telling_line_is_told_once() {
        let said = "loading\nValueError: no such layer\n";
        let died = |error: Option<&str>| vec![(1, Sign::Died(Some(Exit::Code(1)), error.map(str::to_owned)))];
        let expected = "rank 1 on studio ended with code 1; its last message: ValueError: no such layer";
        assert_eq!(line(died(None), said), expected);
        let once = line(died(Some("ValueError: no such layer")), said);
        assert_eq!(once, "rank 1 on studio ended with code 1: ValueError: no such layer");
    }

    #[test]
    fn who_was_asked_to_go_is_not_to_blame_and_a_version_that_differs_is() {
        let gone = Gone { rank: 1, why: Why::Asked, exit: Some(Exit::Code(0)), error: None };
        assert_eq!(Sign::of_goodbye(&gone), None);
        let beat = Beat {
            rank: 1,
            version: "0.0.1".into(),
            pid: None,
            footprint: None,
            cpu_ms: None,
            port: None,
            thread: Thread::None,
            error: None,
        };
        assert_eq!(Sign::of_beat(&beat), Some(Sign::Version("0.0.1".into())));
    }
}
