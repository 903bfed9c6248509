//! The processes of backends and the gates in front of them: spawns, adoption, exits, gates, the router. A [`Slot`] is one
//! model's; [`Runs`] has all of them.

mod adoption;
mod attendance;
mod awake;
mod discovery;
mod door;
mod exits;
mod hours;
mod idle;
mod logs;
mod news;
mod orphans;
mod router;
mod slot;
mod spawn;
mod strays;
mod tools;
mod trim;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{OptionFuture, join_all};
use tokio::sync::{mpsc, watch};

pub(crate) use adoption::{Claim, run_of};
use awake::Awake;
use discovery::Candidate;
pub(crate) use discovery::{Found, find};
use door::Door;
pub(crate) use hours::policy;
pub(crate) use news::{News, Report};
pub(crate) use orphans::{Orphans, running};
use router::Routing;
pub(crate) use slot::Slot;
use strays::Strays;
use tools::Tools;

use crate::clock::Moment;
use crate::gate::{self, Availability, Listening};
use crate::host::{Footprint, Host, Identity, Priority, Signal};
use crate::lifecycle::{Decision, Failure, FailureKind, Fleet, Generation, Name};
use crate::registry::{Model, Registry};
use crate::supervisor::capacity::{Demand, ReadyRun};
use crate::supervisor::records::Note;
use crate::units::{Bytes, Percent};

/// Channels for the reports of gates, the router and other tasks.
pub(crate) struct Reports {
    pub gates: mpsc::UnboundedSender<(String, gate::Report)>,
    pub router: mpsc::UnboundedSender<Listening>,
    pub news: Report,
}

/// All processes of backends, and all gates.
pub(crate) struct Runs {
    tools: Tools,
    slots: HashMap<Name, Slot>,
    /// Processes of ours that belong to no run and are being ended.
    strays: Strays,
    /// The priority of all backends.
    priority: Priority,
    /// The router, the one address of all models.
    routing: Routing,
    /// Prevents idle sleep while requests are in flight.
    awake: Awake,
    gate_reports: mpsc::UnboundedSender<(String, gate::Report)>,
}

impl Runs {
    /// Without any model yet. `binary`: our own, which is also the exec step of backends.
    pub(super) fn new(
        host: &Arc<dyn Host>,
        binary: &Path,
        pace: watch::Receiver<Option<Percent>>,
        reports: Reports,
    ) -> Self {
        Self {
            tools: Tools { host: host.clone(), binary: binary.into(), report: reports.news, pace },
            slots: HashMap::new(),
            strays: Strays::default(),
            priority: Priority::Normal,
            routing: Routing::new(reports.router),
            awake: Awake::new(host.clone()),
            gate_reports: reports.gates,
        }
    }

    pub(super) fn slot(&self, model: &str) -> Option<&Slot> {
        self.slots.get(model)
    }

    pub(super) fn slot_mut(&mut self, model: &str) -> Option<&mut Slot> {
        self.slots.get_mut(model)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (&Name, &Slot)> {
        self.slots.iter()
    }
}

/// Gates and the router.
impl Runs {
    /// Opens the gate of a new registry entry, or brings an open one in line with a changed entry.
    pub(super) fn follow_model(&mut self, registry: &Registry, model: &Arc<Model>, demand: Option<&Demand>) {
        let name = Name::from(model.name.as_str());
        if let Some(slot) = self.slots.get_mut(&name) {
            return slot.follow(registry, model.clone(), demand);
        }
        let door = Door::open(registry, model, demand, &self.awake, self.gate_reports.clone());
        self.slots.insert(name, Slot::open(self.tools.clone(), model.clone(), door));
    }

    /// Brings the router in line with the registry; the gates must be open.
    pub(super) fn follow_router(&mut self, registry: &Registry) -> Option<Note> {
        let gates = registry.models.iter().filter_map(|model| self.slots.get(&*model.name).map(Slot::gate));
        self.routing.follow(registry, gates)
    }

    /// Handles a report of the router.
    pub(super) fn heard_router(&mut self, listening: Listening) -> Option<Note> {
        self.routing.heard(listening)
    }

    /// Why the router does not listen; `None`: it does, or there is none.
    pub(super) fn router_problem(&self) -> Option<&str> {
        self.routing.problem()
    }

    /// Number of the router's own answers, by HTTP status; `None`: there is no router.
    pub(super) fn router_codes(&self) -> Option<BTreeMap<u16, u64>> {
        self.routing.codes()
    }

    /// Whether no model has a request in flight.
    pub(super) fn quiet(&self) -> bool {
        self.slots.values().all(|slot| slot.gate().traffic().in_flight() == 0)
    }

    /// Tells every gate its availability. `load_time` returns how long the last load took; `instead` replaces the
    /// availability of ready models while no new requests may start.
    pub(super) fn publish(
        &mut self,
        fleet: &Fleet,
        load_time: impl Fn(&Name) -> Option<Duration>,
        instead: Option<&Availability>,
    ) {
        let now = self.tools.host.now();
        for managed in fleet.models() {
            if let Some(slot) = self.slots.get_mut(&managed.name) {
                slot.publish(managed, now, load_time(&managed.name), instead);
            }
        }
    }

    /// Closes the gates of models that are no longer in the registry and have no run. Returns their names.
    pub(super) fn close_removed(&mut self, fleet: &Fleet) -> Vec<Name> {
        let gone: Vec<Name> = self.slots.keys().filter(|name| fleet.get(name).is_none()).cloned().collect();
        for name in &gone {
            if let Some(slot) = self.slots.remove(name) {
                tokio::spawn(slot.close());
            }
        }
        gone
    }

    /// Closes all gates and the router. Waiting clients are told to come back, and requests in flight end with an error.
    pub(super) async fn close(&mut self, fleet: &Fleet, leaving: bool) {
        for managed in fleet.models() {
            if let Some(slot) = self.slots.get(&managed.name) {
                slot.end(managed.state.generation(), leaving);
            }
        }
        let router = self.routing.close();
        let gates = self.slots.drain().map(|(_, slot)| slot.close());
        // Concurrently, since requests may have come through either.
        let _ = tokio::join!(join_all(gates), OptionFuture::from(router));
    }
}

/// Processes of backends.
impl Runs {
    /// Starts the process of a run and its tasks. `lock`: held by the process until its record is written.
    ///
    /// # Errors
    /// Something that a start needs is missing, or the system refused.
    pub(super) fn spawn(
        &mut self,
        registry: &Registry,
        demand: Option<&Demand>,
        name: &Name,
        start: (Generation, Bytes),
        lock: io::Result<File>,
    ) -> Result<Identity, Failure> {
        if let Some(stray) = self.strays.of(name) {
            let text = format!("an earlier process of it, {}, is still ending", stray.pid);
            return Err(Failure::new(FailureKind::NotPrepared, text));
        }
        let unknown = || Failure::new(FailureKind::SpawnFailed, "no such model");
        let slot = self.slots.get_mut(name).ok_or_else(unknown)?;
        let identity = slot.spawn(registry, demand, start, lock)?;
        if self.priority != Priority::Normal
            && let Err(error) = self.tools.host.set_priority(identity, self.priority)
        {
            tracing::warn!(%error, model = &**name, "the priority of a new backend could not be changed");
        }
        Ok(identity)
    }

    /// Sends a signal to a run's process group; a failure is noted.
    pub(super) fn signal(&self, name: &Name, identity: Identity, signal: Signal) -> Option<Note> {
        let error = self.tools.host.signal(identity, signal).err()?;
        let text = format!("process {} could not be signalled: {error}", identity.pid);
        Some(Note::of(name, "signal_failed", text))
    }

    /// Sets the priority of all backends; failures are noted.
    pub(super) fn prioritise(&mut self, priority: Priority, fleet: &Fleet) -> Vec<Note> {
        self.priority = priority;
        let live = fleet.models().iter().filter_map(|model| Some(model.state.run()?.identity));
        live.filter_map(|identity| {
            let error = self.tools.host.set_priority(identity, priority).err()?;
            let text = format!("the priority of process {} could not be changed: {error}", identity.pid);
            Some(Note::new("priority_failed", text))
        })
        .collect()
    }

    /// The footprints of live runs by model, given the leading process of each.
    pub(super) fn footprints(&self, live: &[(Name, Identity)]) -> BTreeMap<String, Footprint> {
        live.iter()
            .filter_map(|(name, identity)| {
                let leader = self.tools.host.footprint(*identity).ok()?;
                let footprint = self.slots.get(name).map_or(leader, |slot| slot.charged(leader));
                Some((name.to_string(), footprint))
            })
            .collect()
    }

    /// Measures the footprints of all live runs, unless they are fresh.
    pub(super) fn measure(&mut self, now: Moment, fleet: &Fleet) {
        for managed in fleet.models() {
            if let (Some(run), Some(slot)) = (managed.state.run(), self.slots.get_mut(&managed.name)) {
                slot.measure(now, run.identity);
            }
        }
    }

    /// The current state of every ready run.
    pub(super) fn ready(&self, now: Moment, fleet: &Fleet) -> Vec<ReadyRun> {
        let models = fleet.models().iter();
        models.filter_map(|managed| self.slots.get(&managed.name)?.ready(now, managed)).collect()
    }

    /// For each ready run, whether to announce or carry out a stop for lack of use.
    pub(super) fn idle_steps(&mut self, now: Moment, fleet: &Fleet) -> Vec<(Name, Decision)> {
        let models = fleet.models().iter();
        models.filter_map(|managed| self.slots.get_mut(&managed.name)?.idle_step(now, managed)).collect()
    }

    /// Rotates large logs of all models.
    pub(super) fn rotate_logs(&mut self, registry: &Registry) {
        for (name, slot) in &mut self.slots {
            slot.rotate_log(registry, self.strays.of(name).is_some());
        }
    }

    /// Decides what to do with a process of an earlier supervisor.
    pub(super) fn claim(&self, candidate: Candidate) -> Claim {
        let is_running = |name: &Name| self.slots.get(name).map(|slot| slot.run().is_some());
        adoption::claim(candidate, is_running, &*self.tools.host)
    }

    /// Ends a process of ours that belongs to no run. Its model is not started before it is gone.
    pub(super) fn put_away(&mut self, name: Name, who: Identity) {
        self.strays.put_away(name, who, &self.tools.host, &self.tools.report);
    }

    pub(super) fn stray_gone(&mut self, who: Identity) {
        self.strays.gone(who);
    }

    /// Processes that are being ended because they belong to no run.
    pub(super) fn strays(&self) -> impl Iterator<Item = Identity> {
        self.strays.all()
    }
}
