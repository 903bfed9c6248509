//! Whether a model may start, and what it may take: admission, reasons to hold starts back, upkeep of memory while models
//! run, and what is learned about them. The arithmetic is in [`crate::memory`].

mod admission;
mod demand;
mod files;
mod giving_way;
mod learned;
mod panics;
mod peers;
mod plan;
mod power;
mod prepare;
mod step;
mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use admission::Gatekeeper;
use admission::Holds;
pub(crate) use demand::Demand;
pub(crate) use files::present;
use giving_way::GivingWay;
use learned::Learned;
use panics::Panics;
use peers::Judge;
pub(crate) use peers::PeerAnswers;
pub(crate) use plan::Plan;
use power::PowerState;
pub(crate) use prepare::missing;
pub(crate) use prepare::prepare;
pub(crate) use step::Step;
pub(crate) use upkeep::ReadyRun;

use tokio::sync::watch;

use crate::api::{HeldBack, RankStatus};
use crate::clock::{Moment, beat};
use crate::cluster::ask::Ssh;
use crate::host::{Footprint, Host, Power};
use crate::lifecycle::{
    Event, Failure, FailureKind, Fleet, Generation, Managed, Name, Signed, State, StopReason,
};
use crate::memory::Platform;
use crate::memory::pressure::Policy;
use crate::registry::{Model, PowerChoice, Registry, Start};
use crate::supervisor::records::Note;
use crate::units::{Bytes, Percent};

/// Results of other tasks, which the loop passes back in.
pub(crate) enum News {
    /// A reading of the power source, for [`Capacity::powered`].
    Power(Power),
    /// Answers of the other machines of a cluster to a start, for [`Capacity::judge_peers`].
    Peers(Box<PeerAnswers>),
}

/// What the models need of memory, and everything that decides whether they get it.
pub(crate) struct Capacity {
    host: Arc<dyn Host>,
    demands: HashMap<Name, Demand>,
    learned: Learned,
    /// Decides what to do about memory pressure and programs that the models yield to.
    policy: Policy,
    /// What is in effect while such a program runs.
    giving_way: GivingWay,
    power: PowerState,
    /// Kernel panics that no person has accepted yet.
    panics: Panics,
    /// Whether a start was refused only because of the memory available at the moment.
    short_now: bool,
    /// When memory has to be checked next, if any model is ready then.
    look_due: Moment,
    ssh: Ssh,
    report: Arc<dyn Fn(News) + Send + Sync>,
}

impl Capacity {
    /// Also returns why the learned values could not be read, if so. `binary`: path of `mlxctl` on every machine.
    pub(super) fn open(
        host: &Arc<dyn Host>,
        registry: &Registry,
        binary: &Path,
        report: Arc<dyn Fn(News) + Send + Sync>,
    ) -> (Self, Option<String>) {
        let (learned, problem) = Learned::open(&registry.paths.state);
        let of_power = report.clone();
        let power =
            PowerState::watch(host, registry.power, Arc::new(move |power| of_power(News::Power(power))));
        let capacity = Self {
            host: host.clone(),
            demands: HashMap::new(),
            learned,
            policy: Policy::new(registry.pressure.clone()),
            giving_way: GivingWay::default(),
            power,
            panics: Panics::default(),
            short_now: false,
            look_due: Moment::default(),
            ssh: Ssh::new(binary),
            report,
        };
        (capacity, problem)
    }

    /// The platform of this machine, by a fresh reading.
    pub(super) fn platform(&self) -> Platform {
        Platform::of(&self.host.memory().unwrap_or_default())
    }

    /// Follows the entry of a model, new or changed, in the registry.
    pub(super) fn follow_model(&mut self, registry: &Registry, model: &Arc<Model>, platform: Platform) {
        let name = Name::from(model.name.as_str());
        let demand = self.demands.entry(name).or_insert_with(|| Demand::new(model.clone()));
        demand.follow(model.clone(), registry, platform, &self.learned);
    }

    /// Drops a model that is gone from the registry and has no run.
    pub(super) fn forget_model(&mut self, model: &Name) {
        self.demands.remove(model);
    }

    pub(super) fn demand(&self, model: &Name) -> Option<&Demand> {
        self.demands.get(model)
    }

    /// Restores by how much the forced start of a live run exceeded the memory there was.
    pub(super) fn recall_overdraft(&mut self, model: &Name, overdraft: Option<Bytes>) {
        if let Some(demand) = self.demands.get_mut(model) {
            demand.overdraft = overdraft;
        }
    }

    /// The admission for [`Fleet::step`]. `live` returns what live runs take now, by model.
    pub(super) fn gatekeeper<'a>(
        &'a mut self,
        registry: &'a Registry,
        live: &'a dyn Fn() -> BTreeMap<String, Footprint>,
    ) -> Gatekeeper<'a> {
        Gatekeeper {
            registry,
            host: &*self.host,
            demands: &mut self.demands,
            learned: &self.learned,
            holds: Holds { policy: &self.policy, power: &self.power, panics: &self.panics },
            short_now: &mut self.short_now,
            live,
        }
    }

    /// Whether since the last call a start was refused only because of the memory available at the moment.
    pub(super) fn take_short_now(&mut self) -> bool {
        std::mem::take(&mut self.short_now)
    }

    /// Why a model may not be started, apart from memory. `running`: the running programs that the models yield to.
    pub(super) fn held_back(&self, model: &Model, running: &[String]) -> Option<HeldBack> {
        let holds = Holds { policy: &self.policy, power: &self.power, panics: &self.panics };
        holds.on(&model.name, model.start, running)
    }

    /// The programs that the models yield to, as last seen.
    pub(super) fn yielding_to(&self) -> &[String] {
        self.policy.yielding_to()
    }

    /// The pace and the hold in effect.
    pub(super) fn giving_way(&self) -> &GivingWay {
        &self.giving_way
    }

    /// Subscribes to the pace of all backends.
    pub(super) fn follow_pace(&self) -> watch::Receiver<Option<Percent>> {
        self.giving_way.follow_pace()
    }

    /// Retries for models that were missing their files and have them now.
    pub(super) fn files_came(&self, fleet: &Fleet) -> Vec<Event> {
        let waits = fleet.models().iter().filter(|managed| managed.state.waits_for_files());
        let came = |name: &Name| self.demand(name).is_some_and(|demand| present(&demand.model).is_ok());
        waits.map(|managed| managed.name.clone()).filter(came).map(Event::Retry).collect()
    }
}

/// Learned values.
impl Capacity {
    /// Records how long the load of a ready run took.
    pub(super) fn loaded(&mut self, managed: &Managed) {
        if let State::Ready { run, since } = &managed.state
            && !run.adopted
        {
            self.learned.loaded(&managed.name, run.generation, since.since(run.spawned));
        }
    }

    /// How long the last load of this model took.
    pub(super) fn load_time(&self, model: &Name) -> Option<Duration> {
        self.learned.load_time(model)
    }

    /// Retries a write that failed.
    pub(super) fn try_again(&mut self) {
        self.learned.try_again();
    }

    /// Why learned values could not be written; `None`: they were.
    pub(super) fn problem(&self) -> Option<&str> {
        self.learned.problem()
    }
}

/// Upkeep while models run.
impl Capacity {
    /// When to check memory again: with the health checks of ready models (a check costs some 0.1 ms). `None`: no model
    /// is ready, and nothing has to be undone.
    pub(super) fn next_look(&self, fleet: &Fleet) -> Option<Moment> {
        let mut models = fleet.models().iter();
        let ready = models.any(|model| matches!(model.state, State::Ready { .. }));
        let undone = ready || !self.policy.yielding_to().is_empty();
        undone.then_some(self.look_due).into_iter().chain(self.policy.next()).min()
    }

    /// Checks memory and decides what to do. `programs`: the running programs that the models yield to.
    pub(super) fn look(&mut self, now: Moment, runs: &[ReadyRun], programs: &[String]) -> Vec<Step> {
        // The shortest interval of all models, since one may become ready before the next check.
        let interval = self.demands.values().map(|demand| demand.model.health.interval).min();
        self.look_due = now.after(interval.map_or(Duration::ZERO, beat::wait));
        let reading = self.host.memory().unwrap_or_default();
        let platform = Platform::of(&reading);
        let demands = &mut self.demands;
        let running: Vec<_> = runs
            .iter()
            .filter_map(|run| Some(upkeep::running(demands.get(&run.name)?, run, platform)))
            .collect();
        let actions = self.policy.step(now, reading.pressure, &running, programs);
        let mut steps: Vec<Step> =
            actions.into_iter().flat_map(|action| upkeep::relieve(action, demands.keys())).collect();
        steps.extend(self.giving_way.follow(&self.policy));
        for run in runs {
            if let Some(demand) = demands.get_mut(&run.name) {
                steps.extend(upkeep::keep_in_bounds(demand, &mut self.learned, now, run, platform));
            }
        }
        steps
    }

    /// Follows a reloaded registry; returns the steps that a change of the power rules leads to.
    pub(super) fn follow_rules(&mut self, registry: &Registry, fleet: &Fleet) -> Vec<Step> {
        self.policy.set(registry.pressure.clone());
        let begins = self.power.set_rules(registry.power);
        begins.map(|(choice, text)| power_steps(choice, text, fleet)).unwrap_or_default()
    }

    /// Handles a reading of the power source.
    pub(super) fn powered(&mut self, power: Power, fleet: &Fleet) -> Vec<Step> {
        let begins = self.power.seen(power);
        begins.map(|(choice, text)| power_steps(choice, text, fleet)).unwrap_or_default()
    }
}

/// Other machines, and this one before the boot.
impl Capacity {
    /// Asks the other machines of a model's cluster for room. The answers come as [`News::Peers`]; if they cannot be asked,
    /// a refusal is returned at once.
    pub(super) fn ask_peers(
        &self,
        registry: &Registry,
        model: &Name,
        generation: Generation,
    ) -> Option<Event> {
        let asked = self.demand(model)?.model.clone();
        let report = self.report.clone();
        let report = move |answers| report(News::Peers(Box::new(answers)));
        let error = peers::ask(model.clone(), generation, asked, registry, self.ssh.clone(), report).err()?;
        let text = format!("the other machines cannot be asked: {error}");
        let signed = Signed::Refused(Failure::new(FailureKind::Refused, text));
        Some(Event::Of { model: model.clone(), generation, signed })
    }

    /// Judges the answers of the other machines. `ranks` returns the ranks of a model's live run.
    pub(super) fn judge_peers(
        &self,
        registry: &Registry,
        fleet: &Fleet,
        ranks: &dyn Fn(&Name) -> Vec<RankStatus>,
        answers: PeerAnswers,
    ) -> Option<Event> {
        Judge { demands: &self.demands, registry, fleet, ranks }.judge(answers)
    }

    /// Notes kernel panics that led to this boot.
    pub(super) fn look_for_panics(&mut self, registry: &Registry) -> Vec<Note> {
        self.panics = Panics::look(&*self.host, &registry.paths.state);
        let note = |name: &String| {
            let text =
                format!("the machine restarted after a kernel panic: {name}; manual models need --force");
            let hint = "mlxctl doctor names the report; mlxctl start MODEL --force lifts this for all models";
            Note::new("kernel_panic", text).hint(hint)
        };
        self.panics.reports().iter().map(note).collect()
    }

    /// Accepts the panics so far, because a person forces the start of a manual model.
    pub(super) fn accept_panics(&mut self, registry: &Registry, model: &Name) -> Option<Note> {
        let manual = self.demand(model).is_some_and(|demand| demand.model.start == Start::Manual);
        let accepted = manual && self.panics.accept(&registry.paths.state);
        let text = "started by force after a kernel panic: manual models may start again";
        accepted.then(|| Note::of(model, "kernel_panic", text))
    }
}

fn power_steps(choice: PowerChoice, text: String, fleet: &Fleet) -> Vec<Step> {
    let mut steps = vec![Step::Note(Note::new("power", text))];
    if choice == PowerChoice::StopManual {
        let live = fleet.models().iter().filter(|model| model.state.generation().is_some());
        let manual = live.filter(|model| model.policy.start == Start::Manual);
        steps.extend(manual.map(|managed| {
            let (model, why) = (managed.name.clone(), StopReason::Power);
            Step::Event(Event::Stop { model, waiter: None, why, now: false, drain: None })
        }));
    }
    steps
}
