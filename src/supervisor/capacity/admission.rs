//! Admission as the loop asks it: is everything there that a start needs, and does memory allow it?

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

/// The machine at the moment of a judgement.
struct Machine {
    reading: MemoryReading,
    platform: Platform,
    gpu_limit: Option<GpuLimit>,
}

/// What keeps models from being started, whatever memory there is.
pub(super) struct Holds<'a> {
    pub policy: &'a Policy,
    pub power: &'a PowerState,
    pub panics: &'a Panics,
}

impl Holds<'_> {
    /// Why this model may not be started now; `None`: only memory decides. `running`: the programs that run now, of those
    /// that the models yield to.
    pub(super) fn on(&self, name: &str, start: Start, running: &[String]) -> Option<HeldBack> {
        let held = |reason, hint: &str| HeldBack { reason, hint: hint.to_owned() };
        if let Some(why) = self.policy.refuses(start, running) {
            return Some(held(why, "wait until it is over, or --force"));
        }
        if let Some(why) = self.power.refuses(start) {
            let hint = "connect the power adapter, or --force; [power] of the registry decides";
            return Some(held(why.to_owned(), hint));
        }
        let why = self.panics.refuses(start)?;
        Some(held(why, &format!("mlxctl start {name} --force, which lifts it for all models")))
    }
}

/// The loop's admission: reads what it judges by at the moment it judges.
pub(crate) struct Gatekeeper<'a> {
    pub(super) registry: &'a Registry,
    pub(super) host: &'a dyn Host,
    pub(super) demands: &'a mut HashMap<Name, Demand>,
    pub(super) learned: &'a Learned,
    pub(super) holds: Holds<'a>,
    /// Set where a start is refused for nothing but what is available at the moment.
    pub(super) short_now: &'a mut bool,
    /// What the live runs take now, by model.
    pub(super) live: &'a dyn Fn() -> BTreeMap<String, Footprint>,
}

impl Admission for Gatekeeper<'_> {
    fn prepared(&mut self, name: &Name) -> Result<(), Failure> {
        let platform = Platform::of(&self.host.memory().unwrap_or_default());
        self.look_at_files(name, platform).map(drop)
    }

    fn judge(&mut self, name: &Name, granted: &[(Name, Bytes)], force: bool) -> Result<Verdict, Failure> {
        let gone = || Failure::new(FailureKind::NotPrepared, "it is no longer in the registry");
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

impl Gatekeeper<'_> {
    /// What a start of this model needs and takes, by its files as they are now.
    fn look_at_files(&mut self, name: &Name, platform: Platform) -> Result<Prepared, Failure> {
        let gone = || Failure::new(FailureKind::NotPrepared, "it is no longer in the registry");
        let demand = self.demands.get_mut(name).ok_or_else(gone)?;
        let prepared = prepare(self.registry, &demand.model)?;
        demand.look(self.registry, platform, self.learned)?;
        Ok(prepared)
    }

    /// What keeps the model from being started at this moment.
    fn held(&self, name: &Name, start: Start) -> Option<HeldBack> {
        let yield_to = &self.registry.pressure.yield_to;
        let running = if yield_to.is_empty() { Vec::new() } else { self.host.running(yield_to) };
        self.holds.on(name, start, &running)
    }

    /// Plan, live availability and GPU limit: all must have room.
    fn weigh(
        &self,
        name: &Name,
        granted: &[(Name, Bytes)],
        machine: Machine,
        estimate: Option<&Estimate>,
    ) -> Result<Grant, Box<Refusal>> {
        let mut ledger = Ledger::new(self.host.facts().memory, self.registry.reserves.clone());
        for (other, bytes) in granted {
            // Names are unique, so that every grant is entered.
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
        // A program that does not run only leaves more room, so whether one does, which costs a walk over all processes,
        // is asked where it decides.
        match with(&watched) {
            Err(_) if !watched.is_empty() => with(&self.host.running(&watched)),
            judged => judged,
        }
    }
}
