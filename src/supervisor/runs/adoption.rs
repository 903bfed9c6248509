//! Decides about backends of an earlier supervisor: adopt those that match their files, stop those that are ours but
//! match none.

use std::time::{Duration, SystemTime};

use super::discovery::Candidate;
use crate::backend::spec::{Record, Spec};
use crate::clock::Moment;
use crate::host::{Host, Identity};
use crate::lifecycle::{Generation, Name, Run};
use crate::units::Bytes;

/// What to do with a process of an earlier supervisor.
pub(crate) enum Claim {
    /// Take over the run, which has a record.
    Adopt(Name, Record),
    /// Take over the run and write its record, which was lost.
    Restore(Name, Record),
    /// Stop the process, for the reason given: nothing else ever would.
    PutAway(Name, Identity, &'static str),
}

/// Decides about one process. One that belongs to no model of the registry, or does not match its spec, is stopped.
/// `is_running`: whether a model already has a run; `None`: there is no such model.
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

/// Recreates the record of a process whose record was lost.
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

/// The run that a record describes. `forced`: its start overrode a refusal.
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

/// Converts the wall time of a spawn, seconds since the epoch, to the host's clock.
fn spawned_at(host: &dyn Host, wall: u64) -> Moment {
    let age = wall_seconds(SystemTime::now()).saturating_sub(wall);
    Moment(host.now().0.saturating_sub(Duration::from_secs(age)))
}

/// Seconds since the epoch; 0 for a clock set before it.
fn wall_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
