//! What becomes of backends of an earlier supervisor: adopted if they are who their files say, put away if they are ours
//! and of no use.

use std::time::{Duration, SystemTime};

use super::discovery::Candidate;
use crate::backend::spec::{Record, Spec};
use crate::clock::Moment;
use crate::host::{Host, Identity};
use crate::lifecycle::{Generation, Name, Run};
use crate::units::Bytes;

/// What to do with a process of an earlier supervisor.
pub(crate) enum Claim {
    /// Take the run over.
    Adopt(Name, Record),
    /// The same, and write its record, which was lost.
    Restore(Name, Record),
    /// Put it away: nobody else would ever stop it. Why, in a few words.
    PutAway(Name, Identity, &'static str),
}

/// What belongs to no model of the registry, or cannot be made use of, is put away: it is ours. `is_running`: whether a
/// model has a run already; `None`: there is no such model.
pub(super) fn claim(
    candidate: Candidate,
    is_running: impl Fn(&Name) -> Option<bool>,
    host: &dyn Host,
) -> Claim {
    match candidate {
        Candidate::Recorded(record) => {
            let name = Name::from(record.spec.model.as_str());
            if is_running(&name).is_some() {
                Claim::Adopt(name, record)
            } else {
                Claim::PutAway(name, record.identity, "its model is no longer in the registry")
            }
        }
        Candidate::Unrecorded { name, who, spec } => {
            let free = is_running(&name) == Some(false);
            match spec.filter(|_| free) {
                Some(spec) => Claim::Restore(name, record_of(spec, who, host)),
                None => Claim::PutAway(name, who, "it runs our launcher but belongs to no run"),
            }
        }
    }
}

/// The record of a process that has lost its own.
fn record_of(spec: Spec, who: Identity, host: &dyn Host) -> Record {
    let started = host.started(who);
    let age = host.now().since(started).as_secs();
    Record {
        spec,
        identity: who,
        boot_id: host.facts().boot_id.clone(),
        spawned_at: wall_seconds(SystemTime::now()).saturating_sub(age),
        spawned: Some(started),
    }
}

/// The run that a record tells of. `forced`: its start went past a refusal.
pub(crate) fn run_of(record: &Record, forced: bool, host: &dyn Host) -> Run {
    Run {
        generation: Generation(record.spec.generation),
        identity: record.identity,
        reserved: Bytes(record.spec.reserved),
        forced,
        spawned: record.spawned.unwrap_or_else(|| spawned_at(host, record.spawned_at)),
        port: None,
        adopted: true,
    }
}

/// The wall time of a spawn on the host's clock.
fn spawned_at(host: &dyn Host, wall: u64) -> Moment {
    let age = wall_seconds(SystemTime::now()).saturating_sub(wall);
    Moment(host.now().0.saturating_sub(Duration::from_secs(age)))
}

/// Wall time, but never before the epoch.
fn wall_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
