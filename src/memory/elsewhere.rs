//! Checks whether another machine of a cluster has room for its share of a model, by what that machine reports.

use std::collections::BTreeMap;

use super::admission::judge;
use super::figures::Estimate;
use super::gpu::GpuLimit;
use super::ledger::{Grant, Ledger, Live};
use super::platform::Platform;
use super::refusal::Refusal;
use crate::host::{Footprint, MemoryReading};
use crate::registry::Reserve;
use crate::units::Bytes;

/// What another machine reports of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub host: String,
    pub total: Bytes,
    /// What a new process could take; `None`: not known.
    pub available: Option<Bytes>,
    pub gpu_limit: Option<Bytes>,
    /// Programs of the reserves' `while_running` that run there.
    pub programs: Vec<String>,
    pub platform: Platform,
}

/// The grant and footprint of another model's live run on that machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub model: String,
    pub grant: Grant,
    /// What its ranks on that machine take now.
    pub now: Bytes,
}

/// Decides whether `share`, the machine's part of `model`, fits there. The registry's reserves apply on every machine.
/// Runs that only the machine's own supervisor knows of count with what they have taken so far.
///
/// # Errors
/// A [`Refusal`] that names the machine, and whose lines add up to the byte.
pub(crate) fn judge_there(
    machine: &Elsewhere,
    reserves: &[Reserve],
    held: &[Held],
    model: &str,
    share: Option<&Estimate>,
) -> Result<Grant, Box<Refusal>> {
    let mut ledger = Ledger::new(machine.total, reserves.to_vec()).of_host(&machine.host);
    let mut footprints = BTreeMap::new();
    for Held { model, grant, now } in held {
        // Model names are unique, so no grant is refused.
        let _ = ledger.enter(model, *grant);
        footprints.insert(model.clone(), Footprint { bytes: *now, ..Footprint::default() });
    }
    let reading = MemoryReading {
        available: machine.available,
        gpu_limit: machine.gpu_limit,
        ..MemoryReading::default()
    };
    let live = Live {
        reading: &reading,
        footprints: &footprints,
        programs: &machine.programs,
        platform: machine.platform,
        gpu_limit: GpuLimit::of(machine.platform, &reading, None),
    };
    judge(&ledger, live, model, share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::fixtures::needs;

    fn studio(available: u64) -> Elsewhere {
        Elsewhere {
            host: "studio".to_owned(),
            total: Bytes::gb(64),
            available: Some(Bytes::gb(available)),
            gpu_limit: Some(Bytes::gb(48)),
            programs: Vec::new(),
            platform: Platform::Metal,
        }
    }

    fn reserve() -> Reserve {
        Reserve { name: "macOS".to_owned(), size: Bytes::gb(10), while_running: Vec::new() }
    }

    fn share(gb: u64) -> Estimate {
        needs(Bytes::gb(gb))
    }

    fn other(gb: u64, now: u64) -> Held {
        let grant = Grant { bytes: Bytes::gb(gb), forced: false };
        Held { model: "235b".to_owned(), grant, now: Bytes::gb(now) }
    }

    #[test]
    fn a_machine_with_room_is_granted_its_share() {
        let share = share(20);
        let granted = judge_there(&studio(50), &[reserve()], &[], "480b", Some(&share)).unwrap();
        assert_eq!(granted.bytes, share.reserve());
    }

    #[test]
    fn a_machine_without_room_is_named_and_its_terms_add_up() {
        let share = share(30);
        let held = [other(20, 15)];
        let refusal = judge_there(&studio(35), &[reserve()], &held, "480b", Some(&share)).unwrap_err();
        assert_eq!(refusal.host.as_deref(), Some("studio"));
        for check in &refusal.checks {
            assert_eq!(check.lines.iter().map(|line| line.bytes).sum::<i128>(), check.free, "{check:?}");
            let missing = (i128::from(check.need.0) - check.free).max(0);
            assert_eq!(i128::from(check.missing.0), missing, "{check:?}");
        }
        // 64 GB less 10 and 20; 35 GB less the 5 that the other may still take; 48 GB less 20.
        let free: Vec<_> =
            refusal.checks.iter().map(|check| (check.name.as_str(), check.free / 1_000_000_000)).collect();
        assert_eq!(free, [("plan", 34), ("available now", 30), ("GPU limit", 28)]);
        assert!(refusal.sentence().starts_with(&format!("480b needs {} on studio, ", share.reserve())));
        let table = refusal.to_string();
        assert!(table.contains("GPU limit on studio:"), "{table}");
        assert!(refusal.hint().contains("free memory on studio"), "{}", refusal.hint());
    }

    #[test]
    fn a_program_that_runs_there_keeps_its_reserve() {
        let game = Reserve { while_running: vec!["Civ V".to_owned()], ..reserve() };
        let share = share(45);
        let mut machine = studio(60);
        machine.gpu_limit = None;
        let judge =
            |machine: &Elsewhere| judge_there(machine, &[game.clone(), reserve()], &[], "480b", Some(&share));
        assert!(judge(&machine).is_ok());
        machine.programs = game.while_running.clone();
        let refusal = judge(&machine).unwrap_err();
        assert!(refusal.to_string().contains("memory of studio"), "{refusal}");
    }

    #[test]
    fn a_share_of_unknown_size_is_not_granted() {
        assert!(judge_there(&studio(60), &[], &[], "480b", None).is_err());
    }
}
