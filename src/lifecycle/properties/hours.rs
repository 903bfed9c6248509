//! Hours, a game and memory pressure, in long histories.

use super::*;
use crate::clock::hours::{Hours, LocalTime};
use crate::host::Pressure;
use crate::memory::pressure::{Action, Policy as GivingWay, Running};
use crate::registry::{PressureSettings, YieldAction};
use crate::units::Percent;

/// Something that happens, including what moves hours, pressure and the game.
#[derive(Debug, Clone)]
enum Moved {
    Other(Happening),
    /// A person starts it, and it becomes ready.
    Start {
        manual: bool,
    },
    /// The wall clock advances or jumps to this second of the day.
    Clock(u32),
    Game(bool),
    Pressure(Pressure),
    Settings {
        hold: bool,
        pace: bool,
        stop: bool,
    },
    Reload {
        swap: bool,
    },
}

fn moved() -> impl Strategy<Value = Moved> {
    let other = in_passing().prop_filter("removed models are another test's", |happening| {
        !matches!(happening, Happening::Reload { .. })
    });
    let level = prop_oneof![Just(Pressure::Normal), Just(Pressure::Warning), Just(Pressure::Critical)];
    prop_oneof![
        8 => other.prop_map(Moved::Other),
        2 => any::<bool>().prop_map(|manual| Moved::Start { manual }),
        4 => (0u32..86_400).prop_map(Moved::Clock),
        2 => any::<bool>().prop_map(Moved::Game),
        2 => level.prop_map(Moved::Pressure),
        1 => any::<(bool, bool, bool)>().prop_map(|(hold, pace, stop)| Moved::Settings { hold, pace, stop }),
        1 => any::<bool>().prop_map(|swap| Moved::Reload { swap }),
    ]
}

fn asleep(hours: &Hours, second: u32) -> Option<crate::clock::hours::TimeOfDay> {
    let now = LocalTime::of(second);
    if hours.open(now) { None } else { hours.next(now).map(|(until, _)| until) }
}

fn sleeps_now(model: &Managed) -> bool {
    matches!(model.state, State::Stopped { why: StopReason::Hours(_) })
}

/// Steps the pressure policy and carries out its actions.
fn relieve(world: &mut World, policy: &mut GivingWay, pressure: Pressure, game: &[String]) {
    let running: Vec<Running> = world
        .fleet
        .models()
        .iter()
        .filter(|model| matches!(model.state, State::Ready { .. }))
        .map(|model| Running {
            name: model.name.to_string(),
            start: model.policy.start,
            footprint: Bytes::gb(20),
            yields: true,
        })
        .collect();
    for action in policy.step(world.now, pressure, &running, game) {
        match action {
            Action::Stop { model, .. } => {
                let (model, why) = (Name::from(model.as_str()), StopReason::Pressure);
                world.send(Event::Stop { model, waiter: None, why, now: false, drain: None });
            }
            Action::Return { model } => world.send(Event::Return(Name::from(model.as_str()))),
            Action::TrimAll { .. } | Action::Prioritise(_) | Action::Changed { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_10_000_events_hours_and_games_start_no_manual_model_and_wake_no_model_at_night(
        seed in any::<u64>(),
        history in prop::collection::vec(moved(), 10_000),
    ) {
        let hours = Hours::parse(["08:00-12:00", "20:00-02:00"]).unwrap();
        let mut world = World::new(seed);
        world.commanded = true;
        let mut policy = GivingWay::new(PressureSettings::default());
        let (mut second, mut game, mut pressure) = (43_000, Vec::new(), Pressure::Normal);
        let (mut slept, mut woke, mut late, mut held) = (0, 0, 0, 0);
        let roles = [(ALWAYS, Start::Always), (MANUAL, Start::Manual)];
        for moved in history {
            let before = roles.map(|(name, _)| starts(&world, name));
            let waited = roles.map(|(name, _)| wanted(&world, name));
            let sleeps = world.fleet.models().iter().any(sleeps_now);
            let commanded = match &moved {
                Moved::Start { manual }
                | Moved::Other(Happening::Start { manual, .. } | Happening::Restart { manual, .. }) => {
                    Some(if *manual { MANUAL } else { ALWAYS })
                }
                _ => None,
            };
            match moved {
                // Only the policy brings back what it has stopped.
                Moved::Other(Happening::Return { .. }) => continue,
                Moved::Other(happening) => world.happen(&happening),
                Moved::Start { manual } => {
                    world.happen(&Happening::Start { manual, force: true, wait: false, timeout: None });
                    world.signed(&if manual { MANUAL } else { ALWAYS }.into(), 1, 0);
                }
                Moved::Clock(to) => second = to,
                Moved::Game(runs) => game = if runs { vec!["Civ5XP".to_owned()] } else { Vec::new() },
                Moved::Pressure(level) => pressure = level,
                Moved::Settings { hold, pace, stop } => {
                    let actions = [(hold, YieldAction::Hold), (stop, YieldAction::StopManual)];
                    policy.set(PressureSettings {
                        yield_actions: actions.iter().filter(|(on, _)| *on).map(|(_, action)| *action).collect(),
                        pace: pace.then_some(Percent(50)),
                        ..PressureSettings::default()
                    });
                }
                Moved::Reload { swap } => {
                    let until = asleep(&hours, second);
                    let mut models = roles.map(|(name, start)| {
                        let asleep = until.filter(|_| start == Start::Always);
                        (Name::from(name), super::Policy { asleep, ..super::policy(start) })
                    });
                    if swap {
                        models.reverse();
                    }
                    world.send(Event::Reload(models.to_vec()));
                }
            }
            relieve(&mut world, &mut policy, pressure, &game);
            held += u32::from(policy.holds());
            let until = asleep(&hours, second);
            // The manual model gets it as well, and must ignore it.
            for (name, _) in roles {
                world.send(Event::Hours { model: name.into(), asleep: until });
            }
            for (index, (name, start)) in roles.into_iter().enumerate() {
                let Some(model) = world.fleet.get(name) else { continue };
                let started = model.generation.0 != before[index];
                let person = commanded == Some(name) || waited[index];
                if start == Start::Manual {
                    prop_assert!(!started || person, "a manual model started by itself");
                    prop_assert!(!sleeps_now(model), "a manual model has no hours");
                } else if until.is_some() && !model.up_late {
                    let down = match &model.state {
                        State::Stopped { why } => *why != StopReason::NeverStarted,
                        State::Draining { next, .. } | State::Stopping { next, .. } => matches!(next, Next::Stop(_)),
                        State::Spawning { instead, .. } => matches!(instead, Some(Next::Stop(_))),
                        _ => false,
                    };
                    prop_assert!(down, "{name} is up at night: {:?}", model.state);
                    slept += 1;
                } else if until.is_some() {
                    late += 1;
                } else {
                    prop_assert!(!model.up_late && !sleeps_now(model), "it sleeps by day");
                    woke += u32::from(sleeps);
                }
            }
        }
        prop_assert!(slept > 100 && woke > 10 && late > 10 && held > 100, "{slept} {woke} {late} {held}");
    }
}
