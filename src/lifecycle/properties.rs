//! Promises that hold for any history, checked on random ones against a small world that carries out effects.

mod cases;
mod happening;
mod hours;
mod idle;
mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use self::happening::{Happening, happening, in_passing};
use super::*;
use crate::clock::Moment;
use crate::host::{Exit, Identity, Signal};
use crate::registry::{Restart, Start, Stop};
use crate::units::Bytes;

const ALWAYS: &str = "32b";
const MANUAL: &str = "70b";
const BUDGET: Bytes = Bytes::gb(60);

fn policy(start: Start) -> Policy {
    Policy {
        start,
        restart: Restart {
            enabled: start == Start::Always,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            stable_after: Duration::from_secs(60),
            max_crashes: 5,
            window: Duration::from_secs(600),
        },
        stop: Stop { drain: Duration::from_secs(30), term: Duration::from_secs(120), idle: None },
        load_timeout: Duration::from_secs(600),
        asleep: None,
    }
}

/// The generation of a model's last start, whatever came of it.
fn starts(world: &World, name: &str) -> u64 {
    world.fleet.get(name).map_or(0, |model| model.generation.0)
}

/// Whether a person's restart is waiting for the end of the run before it.
fn wanted(world: &World, name: &str) -> bool {
    matches!(
        world.fleet.get(name).map(|model| &model.state),
        Some(
            State::Draining { next: Next::Restart { .. }, .. }
                | State::Stopping { next: Next::Restart { .. }, .. }
                | State::Spawning { instead: Some(Next::Restart { .. }), .. }
        )
    )
}

/// Grants a start while the sum fits into [`BUDGET`].
struct Sums {
    short: bool,
    missing: bool,
    others: bool,
}

impl Admission for Sums {
    fn judge(&mut self, model: &Name, live: &[(Name, Bytes)], force: bool) -> Result<Verdict, Failure> {
        assert!(live.iter().all(|(name, _)| name != model), "{model} is judged while a run of it lives");
        self.prepared(model)?;
        let reserved = if &**model == ALWAYS { Bytes::gb(20) } else { Bytes::gb(40) };
        let sum: Bytes = live.iter().map(|(_, bytes)| *bytes).sum();
        let fits = !self.short && sum + reserved <= BUDGET;
        if fits || force {
            let overridden = (!fits).then(|| "memory is short".to_owned());
            return Ok(Verdict { reserved, overridden, others: self.others && !force });
        }
        Err(Failure::new(FailureKind::Refused, "memory is short"))
    }

    fn prepared(&mut self, model: &Name) -> Result<(), Failure> {
        let failure =
            || Failure::new(FailureKind::FilesMissing, format!("the files of {model} are not there"));
        if self.missing { Err(failure()) } else { Ok(()) }
    }
}

/// Carries out effects and checks the promises.
struct World {
    fleet: Fleet,
    now: Moment,
    admission: Sums,
    /// Generations of the live processes, by model.
    alive: BTreeMap<String, u64>,
    waiting: BTreeSet<u64>,
    next_waiter: u64,
    next_pid: i32,
    commanded: bool,
    finished: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let models = [(ALWAYS, Start::Always), (MANUAL, Start::Manual)]
            .map(|(name, start)| (Name::from(name), policy(start), Generation(0)));
        let mut world = Self {
            fleet: Fleet::new(models, seed),
            now: Moment(Duration::from_secs(1000)),
            admission: Sums { short: false, missing: false, others: false },
            alive: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next_waiter: 0,
            next_pid: 1,
            commanded: false,
            finished: false,
        };
        world.send(Event::Boot);
        world
    }

    fn waiter(&mut self) -> WaiterId {
        self.next_waiter += 1;
        self.waiting.insert(self.next_waiter);
        WaiterId(self.next_waiter)
    }

    fn send(&mut self, event: Event) {
        let mut queue = vec![event];
        while let Some(event) = queue.pop() {
            if let Event::Of { model, signed: Signed::SpawnFailed(_), .. } = &event {
                self.alive.remove(&**model);
            }
            for effect in self.fleet.step(self.now, event, &mut self.admission) {
                self.carry_out(effect, &mut queue);
            }
            self.check();
        }
    }

    fn carry_out(&mut self, effect: Effect, queue: &mut Vec<Event>) {
        match effect {
            Effect::Spawn { model, generation, .. } => {
                assert!(!self.finished, "a spawn after the end");
                let before = self.alive.insert(model.to_string(), generation.0);
                assert_eq!(before, None, "two live runs of {model}");
                assert!(&*model != MANUAL || self.commanded, "a manual model started by itself");
                self.next_pid += 1;
                let signed = if generation.0 % 7 == 3 {
                    Signed::SpawnFailed(Failure::new(FailureKind::SpawnFailed, "no more processes"))
                } else {
                    Signed::Spawned(Identity { pid: self.next_pid, started: 1 })
                };
                queue.push(Event::Of { model, generation, signed });
            }
            Effect::Signal { model, run, .. } => {
                assert_eq!(
                    self.alive.get(&*model),
                    Some(&run.generation.0),
                    "a signal to a process that is gone"
                );
            }
            Effect::Reply { waiter, .. } => {
                assert!(self.waiting.remove(&waiter.0), "waiter {} is answered twice", waiter.0);
            }
            Effect::Finished => {
                assert!(self.alive.is_empty(), "finished while runs live");
                assert!(!std::mem::replace(&mut self.finished, true), "finished twice");
            }
            // Answered by a random event, or never.
            Effect::Ask { .. } | Effect::Drain { .. } | Effect::Abort { .. } | Effect::Note { .. } => {}
        }
    }

    fn check(&self) {
        assert_eq!(self.fleet.waiters.len(), self.waiting.len(), "a waiter was lost");
        let live: BTreeMap<_, _> = self
            .fleet
            .models()
            .iter()
            .filter(|model| !matches!(model.state, State::Asking { .. }))
            .filter_map(|model| Some((model.name.to_string(), model.state.generation()?.0)))
            .collect();
        assert_eq!(live, self.alive, "the fleet's runs are the live processes");
        let reserved: Bytes = self.fleet.reserved().into_iter().map(|(_, bytes)| bytes).sum();
        let forced = self.fleet.models().iter().any(|model| model.state.forced());
        assert!(reserved <= BUDGET || forced, "{reserved} reserved");
        for model in self.fleet.models() {
            if model.policy.start == Start::Always && model.state.generation().is_none() {
                match &model.state {
                    State::Backoff { until, last, .. } => {
                        assert!(!last.text.is_empty());
                        assert!(until.since(self.now) <= Duration::from_secs(600));
                    }
                    State::Stopped { why } => assert_ne!(*why, StopReason::NeverStarted),
                    // It has a reason, and starts once its files are there.
                    state if state.waits_for_files() => {}
                    other => panic!("always-on and down as {other:?}"),
                }
            }
        }
    }

    fn happen(&mut self, happening: &Happening) {
        let name = |manual: &bool| Name::from(if *manual { MANUAL } else { ALWAYS });
        match happening {
            Happening::Start { manual, force, wait, timeout } => {
                self.commanded |= manual;
                let waiter = self.waiter();
                self.send(Event::Start {
                    model: name(manual),
                    waiter,
                    force: *force,
                    wait: *wait,
                    timeout: timeout.map(|s| Duration::from_secs(s.into())),
                });
            }
            Happening::Stop { manual, now } => {
                let waiter = Some(self.waiter());
                self.send(Event::Stop {
                    model: name(manual),
                    waiter,
                    why: StopReason::ByHand,
                    now: *now,
                    drain: None,
                });
            }
            Happening::Restart { manual, now } => {
                self.commanded |= manual;
                let waiter = self.waiter();
                self.send(Event::Restart { model: name(manual), waiter, now: *now, drain: None });
            }
            Happening::Signed { manual, what, back } => self.signed(&name(manual), *what, u64::from(*back)),
            Happening::Pass(seconds) => self.pass(Duration::from_secs((*seconds).into())),
            Happening::Slept(seconds) => {
                let length = Duration::from_secs((*seconds).into());
                self.now = self.now.after(length);
                self.send(Event::Slept(length));
            }
            Happening::Short(short) => self.admission.short = *short,
            Happening::Missing(missing) => self.admission.missing = *missing,
            Happening::Apart(apart) => self.admission.others = *apart,
            Happening::Answer { manual, agreed, back } => {
                self.answer(&name(manual), *agreed, u64::from(*back));
            }
            Happening::Retry { manual } => self.send(Event::Retry(name(manual))),
            Happening::Yield { manual } => {
                let why = StopReason::Pressure;
                self.send(Event::Stop { model: name(manual), waiter: None, why, now: false, drain: None });
            }
            // The pressure policy only brings back always-on models.
            Happening::Return { manual } if *manual => {}
            Happening::Return { manual } => self.send(Event::Return(name(manual))),
            Happening::Reload { keep_manual, swap } => {
                let mut models = vec![(Name::from(ALWAYS), policy(Start::Always))];
                if *keep_manual {
                    models.push((Name::from(MANUAL), policy(Start::Manual)));
                }
                if *swap {
                    models.reverse();
                }
                self.send(Event::Reload(models));
            }
            Happening::Shutdown { now } => self.send(Event::Shutdown { now: *now }),
        }
    }

    /// The other machines' answer to the current start, or (`back` > 0) to an earlier one.
    fn answer(&mut self, model: &Name, agreed: bool, back: u64) {
        let Some(State::Asking { grant, .. }) = self.fleet.get(model).map(|model| &model.state) else {
            return;
        };
        let generation = Generation(grant.generation.0.saturating_sub(back));
        let refusal = || Failure::new(FailureKind::Refused, "studio has no room");
        let signed = if agreed { Signed::Agreed } else { Signed::Refused(refusal()) };
        let before = self.fleet.clone();
        self.send(Event::Of { model: model.clone(), generation, signed });
        assert_eq!(before == self.fleet, back > 0, "an answer counts once, and only for its own start");
    }

    /// An event of the live run, or (`back` > 0) of one that has ended.
    fn signed(&mut self, model: &Name, what: u8, back: u64) {
        let Some(live) = self.alive.get(&**model).copied() else { return };
        let generation = Generation(live.saturating_sub(back));
        let signed = match what % 8 {
            0 => Signed::Listening(5000),
            1..=3 => Signed::Answered,
            4 => Signed::Drained,
            5 => Signed::Unhealthy(Failure::new(FailureKind::Hung, "no progress")),
            _ => Signed::Gone { exit: Exit::Signal(9), diagnosis: None },
        };
        let gone = matches!(signed, Signed::Gone { .. });
        if back > 0 {
            let before = self.fleet.clone();
            self.send(Event::Of { model: model.clone(), generation, signed });
            assert_eq!(before, self.fleet, "a stale event changed something");
            return;
        }
        if gone {
            self.alive.remove(&**model);
        }
        self.send(Event::Of { model: model.clone(), generation, signed });
    }

    fn pass(&mut self, length: Duration) {
        let end = self.now.after(length);
        while let Some(deadline) = self.fleet.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.send(Event::Tick);
        }
        self.now = end;
    }

    /// Ends every process that was signalled.
    fn obey(&mut self) {
        for _ in 0..20 {
            let live: Vec<_> = self.alive.keys().cloned().collect();
            for model in live {
                if let Some(State::Stopping { .. }) = self.fleet.get(&model).map(|model| &model.state) {
                    self.signed(&Name::from(model.as_str()), 7, 0);
                }
            }
            self.pass(Duration::from_secs(60));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_promises_and_shutdown_ends_it(
        seed in any::<u64>(),
        history in prop::collection::vec(happening(), 0..60),
        now in any::<bool>(),
    ) {
        let mut world = World::new(seed);
        for happening in &history {
            world.happen(happening);
        }
        world.send(Event::Shutdown { now });
        world.obey();
        prop_assert!(world.finished, "shutdown ends: {:?}", world.fleet);
        prop_assert!(world.waiting.is_empty(), "every waiter was answered");
        prop_assert_eq!(world.fleet.deadline(), None);
    }
}
