//! What outlives a supervisor about a model: restarts, counters, and whether a person stopped it. Kept in the run folder,
//! since it only applies to this boot: after the next one an always-on model starts afresh.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::Counts;
use crate::backend::record;
use crate::clock::Moment;
use crate::lifecycle::{Lent, Managed, Next, State, StopReason};
use crate::units::Bytes;

/// The format version of a checkpoint.
const SCHEMA: u32 = 1;

/// The content of `<run>/<model>.kept.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    schema: u32,
    boot_id: String,
    /// Restarts after failures so far.
    pub restarts: u32,
    /// Whether a person stopped it, so that it stays down under the next supervisor.
    pub by_hand: bool,
    /// Whether a person started it outside its hours, so that it stays up until the hours next end.
    #[serde(default)]
    pub up_late: bool,
    /// Whether the start of its live run overrode a refusal.
    #[serde(default)]
    pub forced: bool,
    /// By how much that start exceeded the memory there was, bytes.
    #[serde(default)]
    pub overdraft: u64,
    /// The time that a person gave its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent: Option<Lent>,
    /// When it was last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Moment>,
    /// Counters of the gate, by all supervisors of this boot.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Checkpoint {
    /// The checkpoint of a model now. `counts` includes those of earlier supervisors.
    pub(crate) fn of(
        managed: &Managed,
        overdraft: Option<Bytes>,
        lent: Option<Lent>,
        last_used: Option<Moment>,
        counts: Counts,
        boot_id: &str,
    ) -> Self {
        let forced = managed.state.forced();
        Self {
            schema: SCHEMA,
            boot_id: boot_id.to_owned(),
            restarts: managed.restarts,
            by_hand: stopped_by_hand(&managed.state),
            up_late: managed.up_late,
            forced,
            overdraft: overdraft.filter(|_| forced).map_or(0, |bytes| bytes.0),
            lent,
            last_used,
            counts,
        }
    }

    /// Whether they differ in more than counters and use, so that it has to be written at once.
    pub(crate) fn differs_in_life(&self, other: &Self) -> bool {
        let life = |one: &Self| (one.restarts, one.by_hand, one.up_late, one.forced, one.lent);
        life(self) != life(other)
    }

    /// Reads what an earlier supervisor of this boot left; the default if there is none. A damaged file is set aside.
    pub(crate) fn read(run: &Path, model: &str, boot_id: &str) -> Self {
        let kept = record::read::<Self>(&file(run, model)).ok().flatten();
        kept.filter(|kept| kept.schema == SCHEMA && kept.boot_id == boot_id).unwrap_or_default()
    }

    /// Writes the checkpoint; not synced, since it only applies to this boot.
    pub(crate) fn write(&self, run: &Path, model: &str) -> io::Result<()> {
        record::replace(&file(run, model), self)
    }
}

pub(crate) fn file(run: &Path, model: &str) -> PathBuf {
    run.join(format!("{model}.kept.json"))
}

fn stopped_by_hand(state: &State) -> bool {
    let by_hand = Next::Stop(StopReason::ByHand);
    match state {
        State::Stopped { why } => *why == StopReason::ByHand,
        State::Spawning { instead, .. } => instead.as_ref() == Some(&by_hand),
        State::Draining { next, .. } | State::Stopping { next, .. } => *next == by_hand,
        State::Asking { .. }
        | State::Loading { .. }
        | State::Ready { .. }
        | State::Backoff { .. }
        | State::Failed { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::api::KeyUsage;

    #[test]
    fn a_checkpoint_is_valid_in_its_boot_only_and_a_damaged_one_is_ignored() {
        let run = tempfile::tempdir().unwrap();
        let kept = Checkpoint {
            schema: SCHEMA,
            boot_id: "b".into(),
            restarts: 2,
            by_hand: true,
            up_late: true,
            forced: true,
            overdraft: 7,
            lent: Some(Lent { length: Duration::from_secs(9), until: Some(Moment(Duration::from_secs(10))) }),
            last_used: Some(Moment(Duration::from_secs(5))),
            counts: Counts {
                requests: 3,
                errors: 1,
                tokens: 9,
                prompt_tokens: 70,
                cached_tokens: 60,
                keys: BTreeMap::from([(
                    "ann".to_owned(),
                    KeyUsage { requests: 3, tokens: 9, ..KeyUsage::default() },
                )]),
                since: Some("2026-01-01T00:00:00Z".to_owned()),
            },
        };
        kept.write(run.path(), "32b").unwrap();
        assert_eq!(Checkpoint::read(run.path(), "32b", "b"), kept);
        assert_eq!(Checkpoint::read(run.path(), "32b", "c"), Checkpoint::default());
        let now = Counts { requests: 1, since: Some("2026-01-02T00:00:00Z".to_owned()), ..Counts::default() };
        let sum = now.clone().after(&kept.counts);
        assert_eq!(sum.since, kept.counts.since, "counting continues");
        assert_eq!(now.clone().after(&Counts::default()).since, now.since);
        assert_eq!(now.after(&Counts { since: None, ..kept.counts }).since, None, "not known");
        assert_eq!((sum.requests, sum.errors, sum.tokens), (4, 1, 9));
        assert_eq!((sum.prompt_tokens, sum.cached_tokens, sum.keys["ann"].requests), (70, 60, 3));
        let old = include_str!("../../../tests/fixtures/state-v1/32b.kept.json");
        std::fs::write(file(run.path(), "32b"), old).unwrap();
        let read = Checkpoint::read(run.path(), "32b", "6D7A");
        assert_eq!((read.restarts, read.by_hand, read.counts.tokens), (2, true, 999), "version 1 is read");
        std::fs::write(file(run.path(), "32b"), "{\"schema\":1,").unwrap();
        assert_eq!(Checkpoint::read(run.path(), "32b", "b"), Checkpoint::default());
    }
}
