//! Models that go by themselves, in long histories.

use super::*;

/// What happens beside everything else: requests, and the regular look.
#[derive(Debug, Clone)]
enum Moved {
    Other(Happening),
    /// A person starts it, and it becomes ready.
    Start,
    Request(bool),
    Lend(u16),
    Look(u16),
}

fn moved() -> impl Strategy<Value = Moved> {
    // Short passes: what comes back by itself ticks through them.
    let other = happening()
        .prop_map(|happening| match happening {
            Happening::Pass(seconds) => Happening::Pass(seconds % 60),
            Happening::Slept(seconds) => Happening::Slept(seconds % 600),
            other => other,
        })
        .prop_filter("the end is another test's", |happening| {
            !matches!(happening, Happening::Shutdown { .. })
        });
    prop_oneof![
        6 => other.prop_map(Moved::Other),
        1 => Just(Moved::Start),
        1 => any::<bool>().prop_map(Moved::Request),
        1 => (1u16..400).prop_map(Moved::Lend),
        4 => (0u16..90).prop_map(Moved::Look),
    ]
}

/// The generation of the manual model's last start, whatever came of it.
fn starts(world: &World) -> u64 {
    world.fleet.get(MANUAL).map_or(0, |model| model.generation.0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_10_000_events_a_manual_model_is_started_by_people_only_and_no_request_is_cut_by_its_end(
        seed in any::<u64>(),
        history in prop::collection::vec(moved(), 10_000),
    ) {
        let mut world = World::new(seed);
        let mut idle = Idle::default();
        let mut limits = Limits { idle: Some(Duration::from_secs(60)), lent: None };
        let mut usage = Usage { busy: false, last: world.now };
        let mut gone = 0;
        for moved in history {
            let before = starts(&world);
            // A person's command is carried out at once, or when the run that it came in has ended.
            let person = matches!(
                moved,
                Moved::Start
                    | Moved::Other(Happening::Start { manual: true, .. } | Happening::Restart { manual: true, .. })
            );
            let wanted = person || matches!(
                world.fleet.get(MANUAL).map(|model| &model.state),
                Some(State::Draining { next: Next::Restart { .. }, .. } | State::Stopping { next: Next::Restart { .. }, .. }
                    | State::Spawning { instead: Some(Next::Restart { .. }), .. })
            );
            match moved {
                Moved::Other(happening) => {
                    // A registry without the model forgets its numbers.
                    if matches!(happening, Happening::Reload { keep_manual: false, .. }) {
                        continue;
                    }
                    world.happen(&happening);
                }
                Moved::Start => {
                    world.happen(&Happening::Start { manual: true, force: true, wait: false, timeout: None });
                    world.signed(&MANUAL.into(), 1, 0);
                }
                Moved::Request(busy) => usage = Usage { busy, last: world.now },
                Moved::Lend(seconds) => {
                    let length = Duration::from_secs(seconds.into());
                    limits.lent = Some(Lent { length, until: Some(world.now.after(length)) });
                }
                // Some looks in a row: a run that is ready is rarely left alone for longer by what else happens.
                Moved::Look(seconds) => for _ in 0..4 {
                    world.pass(Duration::from_secs(seconds.into()));
                    let ready = matches!(
                        world.fleet.get(MANUAL).map(|model| &model.state), Some(State::Ready { .. })
                    );
                    if ready && let Decision::Stop(why) = idle.step(world.now, usage, limits) {
                        prop_assert!(!usage.busy, "a request was cut");
                        let stop = Event::Stop { model: MANUAL.into(), waiter: None, why, now: false, drain: None };
                        world.send(stop);
                        gone += 1;
                        (idle, limits.lent) = (Idle::default(), None);
                    }
                },
            }
            prop_assert!(starts(&world) == before || wanted, "a manual model started by itself");
        }
        prop_assert!(gone > 0, "some went by themselves");
    }
}

#[test]
fn what_went_by_itself_is_stopped_and_no_failure() {
    let mut world = World::new(1);
    world.happen(&Happening::Start { manual: true, force: false, wait: true, timeout: None });
    world.signed(&MANUAL.into(), 1, 0);
    let why = StopReason::Idle(Duration::from_secs(7200));
    world.send(Event::Stop { model: MANUAL.into(), waiter: None, why, now: false, drain: None });
    world.signed(&MANUAL.into(), 4, 0);
    world.signed(&MANUAL.into(), 7, 0);
    let model = world.fleet.get(MANUAL).unwrap();
    assert_eq!(model.state, State::Stopped { why });
    assert_eq!(model.reason().as_deref(), Some("idle for 2h, as the registry says"));
    assert_eq!(StopReason::TimeOver(Duration::from_secs(3600)).text(), "its time of 1h is over");
    let generation = model.generation;
    world.send(Event::Return(MANUAL.into()));
    world.send(Event::Retry(MANUAL.into()));
    world.pass(Duration::from_secs(1_000_000));
    assert_eq!(world.fleet.get(MANUAL).unwrap().generation, generation);
}
