//! Admission: is everything there that a start needs, and is there memory for it?

use std::collections::{BTreeMap, HashMap};

use super::demand::Demand;
use super::learned::Learned;
use super::panics::Panics;
use super::power::PowerState;
use super::prepare::{Prepared, prepare};
use crate::api::HeldBack;
use crate::host::{Footprint, Host, MemoryReading};
use crate::lifecycle::{Admission, Failure, FailureKind, Name, Verdict};
use crate::memory::pressure::Policy;
use crate::memory::{Estimate, GpuLimit, Grant, Ledger, Live, Platform, Refusal, judge};
use crate::registry::{Cluster, Registry, Start};
use crate::units::Bytes;

/// Readings of the machine at the moment of a judgement.
struct Machine {
    reading: MemoryReading,
    platform: Platform,
    gpu_limit: Option<GpuLimit>,
}

/// Reasons to refuse starts regardless of memory.
pub(super) struct Holds<'a> {
    pub policy: &'a Policy,
    pub power: &'a PowerState,
    pub panics: &'a Panics,
}

impl Holds<'_> {
    /// Why this model may not be started now; `None`: only memory decides. `running`: the running programs that the
    /// models yield to.
    pub(super) fn on(&self, name: &str, start: Start, running: &[String]) -> Option<HeldBack> {
        let held = |reason, hint: &str| HeldBack { reason, hint: hint.to_owned() };
        if let Some(why) = self.policy.refuses(start, running) {
            return Some(held(why, "wait until it is over, or use --force"));
        }
        if let Some(why) = self.power.refuses(start) {
            let hint = "connect the power adapter, or use --force; [power] in the registry sets this";
            return Some(held(why.to_owned(), hint));
        }
        let why = self.panics.refuses(start)?;
        Some(held(why, &format!("mlxctl start {name} --force, which lifts it for all models")))
    }
}

/// The loop's admission, which takes its readings at the moment of a judgement.
pub(crate) struct Gatekeeper<'a> {
    pub(super) registry: &'a Registry,
    pub(super) host: &'a dyn Host,
    pub(super) demands: &'a mut HashMap<Name, Demand>,
    pub(super) learned: &'a Learned,
    pub(super) holds: Holds<'a>,
    /// Set if a start is refused only because of the memory available at the moment.
    pub(super) short_now: &'a mut bool,
    /// Returns what live runs take now, by model.
    pub(super) live: &'a dyn Fn() -> BTreeMap<String, Footprint>,
}

impl Admission for Gatekeeper<'_> {
    fn prepared(&mut self, name: &Name) -> Result<(), Failure> {
        let platform = Platform::of(&self.host.memory().unwrap_or_default());
        self.look_at_files(name, platform).map(drop)
    }

    fn judge(&mut self, name: &Name, granted: &[(Name, Bytes)], force: bool) -> Result<Verdict, Failure> {
        let reading = self.host.memory().unwrap_or_default();
        let platform = Platform::of(&reading);
        let prepared = self.look_at_files(name, platform)?;
        let gpu_limit = GpuLimit::of(platform, &reading, prepared.gpu_limit);
        let demand = self.demands.get_mut(name).ok_or_else(gone)?;
        let estimate = demand.estimate().cloned();
        demand.overdraft = None;
        let start = demand.model.start;
        let others = demand.model.cluster.as_ref().map(Cluster::others).unwrap_or_default();
        if let Some(held) = self.held(name, start).filter(|_| !force) {
            let text = format!("cannot start {name} now: {}", held.reason);
            return Err(Failure::new(FailureKind::Refused, text).hint(held.hint));
        }
        let refusal =
            match self.weigh(name, granted, Machine { reading, platform, gpu_limit }, estimate.as_ref()) {
                Ok(grant) => {
                    let asked = !force && !others.is_empty();
                    let overridden = (force && !others.is_empty())
                        .then(|| format!("{} was not asked for room", others.join(", ")));
                    return Ok(Verdict { reserved: grant.bytes, overridden, others: asked });
                }
                Err(refusal) => refusal,
            };
        if force {
            if let Some(demand) = self.demands.get_mut(name) {
                demand.overdraft = Some(refusal.missing());
            }
            let reserved = estimate.as_ref().map(Estimate::reserve).unwrap_or_default();
            return Ok(Verdict { reserved, overridden: Some(refusal.sentence()), others: false });
        }
        *self.short_now = refusal.for_now();
        let mut failure = Failure::new(FailureKind::Refused, refusal.sentence()).hint(refusal.hint());
        failure.detail = Some(refusal.to_string());
        Err(failure)
    }
}

fn gone() -> Failure {
    Failure::new(FailureKind::NotPrepared, "it is no longer in the registry")
}

impl Gatekeeper<'_> {
    /// Checks what a start needs, and plans it by the files as they are now.
    fn look_at_files(&mut self, name: &Name, platform: Platform) -> Result<Prepared, Failure> {
        let demand = self.demands.get_mut(name).ok_or_else(gone)?;
        let prepared = prepare(self.registry, &demand.model)?;
        demand.look(self.registry, platform, self.learned)?;
        Ok(prepared)
    }

    /// Why the model may not be started at this moment, apart from memory.
    fn held(&self, name: &Name, start: Start) -> Option<HeldBack> {
        let yield_to = &self.registry.pressure.yield_to;
        let running = if yield_to.is_empty() { Vec::new() } else { self.host.running(yield_to) };
        self.holds.on(name, start, &running)
    }

    /// Checks the plan, available memory and the GPU limit, which must all have room.
    fn weigh(
        &self,
        name: &Name,
        granted: &[(Name, Bytes)],
        machine: Machine,
        estimate: Option<&Estimate>,
    ) -> Result<Grant, Box<Refusal>> {
        let mut ledger = Ledger::new(self.host.facts().memory, self.registry.reserves.clone());
        for (other, bytes) in granted {
            // Model names are unique, so no grant is refused.
            let _ = ledger.enter(other, Grant { bytes: *bytes, forced: false });
        }
        let footprints = (self.live)();
        let watched: Vec<String> =
            self.registry.reserves.iter().flat_map(|reserve| reserve.while_running.iter().cloned()).collect();
        let with = |programs| {
            let Machine { reading, platform, gpu_limit } = &machine;
            let (platform, gpu_limit) = (*platform, *gpu_limit);
            let live = Live { reading, footprints: &footprints, programs, platform, gpu_limit };
            judge(&ledger, live, name, estimate)
        };
        // Finding out which programs run costs a walk over all processes, so first assume that all do; only if there is
        // no room then does it matter.
        match with(&watched) {
            Err(_) if !watched.is_empty() => with(&self.host.running(&watched)),
            judged => judged,
        }
    }
}
