//! What of a model's life outlives its supervisor: restarts, counters, and that a person stopped it. Kept beside the
//! records, for it is of this boot: after the next one an always-on model comes up as if nothing had been.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::{KeyUsage, TrafficStatus};
use crate::backend::record;
use crate::clock::Moment;
use crate::lifecycle::{Lent, Managed, Next, State, StopReason};
use crate::units::Bytes;

/// The version of the file.
const SCHEMA: u32 = 1;

/// `<run>/<model>.kept.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    schema: u32,
    /// On which boot.
    boot_id: String,
    /// Restarts after a failure.
    pub restarts: u32,
    /// A person stopped it: it stays down although the supervisor comes up anew.
    pub by_hand: bool,
    /// A person started it outside its hours: it stays up until their next end.
    #[serde(default)]
    pub up_late: bool,
    /// The start of its live run went past a refusal.
    #[serde(default)]
    pub forced: bool,
    /// By how much, bytes.
    #[serde(default)]
    pub overdraft: u64,
    /// Until when a person wants it to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent: Option<Lent>,
    /// When it was last of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Moment>,
    /// Of the gate: requests, errors among them, tokens.
    pub requests: u64,
    /// See [`Kept::requests`].
    pub errors: u64,
    /// See [`Kept::requests`].
    pub tokens: u64,
    /// See [`Kept::requests`].
    #[serde(default)]
    pub prompt_tokens: u64,
    /// See [`Kept::requests`].
    #[serde(default)]
    pub cached_tokens: u64,
    /// The same, by the names of keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, KeyUsage>,
    /// Since when, RFC 3339; `None` in files of earlier versions.
    #[serde(default)]
    pub since: Option<String>,
}

impl Kept {
    /// What is to be kept of a model now. `traffic` includes what earlier supervisors counted.
    pub fn of(
        managed: &Managed,
        overdraft: Option<Bytes>,
        lent: Option<Lent>,
        last_used: Option<Moment>,
        traffic: &TrafficStatus,
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
            requests: traffic.requests,
            errors: traffic.errors,
            tokens: traffic.tokens,
            prompt_tokens: traffic.prompt_tokens,
            cached_tokens: traffic.cached_tokens,
            keys: traffic.keys.clone(),
            since: traffic.since.clone(),
        }
    }

    /// Whether a person would miss the difference at once; counters can wait.
    pub fn differs_in_life(&self, other: &Self) -> bool {
        let life = |kept: &Self| (kept.restarts, kept.by_hand, kept.up_late, kept.forced, kept.lent);
        life(self) != life(other)
    }

    /// Adds what was counted before to what was counted since.
    pub fn add_to(&self, mut traffic: TrafficStatus) -> TrafficStatus {
        for (name, before) in &self.keys {
            traffic.keys.entry(name.clone()).or_default().add(*before);
        }
        TrafficStatus {
            requests: traffic.requests.saturating_add(self.requests),
            errors: traffic.errors.saturating_add(self.errors),
            tokens: traffic.tokens.saturating_add(self.tokens),
            prompt_tokens: traffic.prompt_tokens.saturating_add(self.prompt_tokens),
            cached_tokens: traffic.cached_tokens.saturating_add(self.cached_tokens),
            since: match &self.since {
                None if self.requests == 0 => traffic.since,
                before => before.clone(),
            },
            ..traffic
        }
    }

    /// What an earlier supervisor of this boot left; nothing otherwise. A damaged file is set aside.
    pub fn read(run: &Path, model: &str, boot_id: &str) -> Self {
        let kept = record::read::<Self>(&file(run, model)).ok().flatten();
        kept.filter(|kept| kept.schema == SCHEMA && kept.boot_id == boot_id).unwrap_or_default()
    }

    /// Writes it. Not synced: it is of this boot.
    pub fn write(&self, run: &Path, model: &str) -> io::Result<()> {
        record::replace(&file(run, model), self)
    }
}

/// Its file.
pub(super) fn file(run: &Path, model: &str) -> PathBuf {
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_kept_is_of_its_boot_and_damage_is_no_obstacle() {
        let run = tempfile::tempdir().unwrap();
        let kept = Kept {
            schema: SCHEMA,
            boot_id: "b".into(),
            restarts: 2,
            by_hand: true,
            up_late: true,
            forced: true,
            overdraft: 7,
            lent: Some(Lent { length: Duration::from_secs(9), until: Some(Moment(Duration::from_secs(10))) }),
            last_used: Some(Moment(Duration::from_secs(5))),
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
        };
        kept.write(run.path(), "32b").unwrap();
        assert_eq!(Kept::read(run.path(), "32b", "b"), kept);
        assert_eq!(Kept::read(run.path(), "32b", "c"), Kept::default());
        let now = TrafficStatus {
            requests: 1,
            in_flight: 5,
            since: Some("2026-01-02T00:00:00Z".to_owned()),
            ..TrafficStatus::default()
        };
        let sum = kept.add_to(now.clone());
        assert_eq!(sum.since, kept.since, "counting goes on");
        assert_eq!(Kept::default().add_to(now.clone()).since, now.since);
        assert_eq!(Kept { since: None, ..kept.clone() }.add_to(now).since, None, "not known");
        assert_eq!((sum.requests, sum.errors, sum.tokens, sum.in_flight), (4, 1, 9, 5));
        assert_eq!((sum.prompt_tokens, sum.cached_tokens, sum.keys["ann"].requests), (70, 60, 3));
        let old = include_str!("../../tests/fixtures/state-v1/32b.kept.json");
        std::fs::write(file(run.path(), "32b"), old).unwrap();
        let read = Kept::read(run.path(), "32b", "6D7A");
        assert_eq!((read.restarts, read.by_hand, read.tokens), (2, true, 999), "version 1 is read");
        std::fs::write(file(run.path(), "32b"), "{\"schema\":1,").unwrap();
        assert_eq!(Kept::read(run.path(), "32b", "b"), Kept::default());
    }
}
