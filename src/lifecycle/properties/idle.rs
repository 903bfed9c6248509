//! Models that stop by themselves, in long histories.

use super::*;

/// Something that happens, including requests and the regular check.
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
    prop_oneof![
        6 => in_passing().prop_map(Moved::Other),
        1 => Just(Moved::Start),
        1 => any::<bool>().prop_map(Moved::Request),
        1 => (1u16..400).prop_map(Moved::Lend),
        4 => (0u16..90).prop_map(Moved::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_10_000_events_only_people_start_a_manual_model_and_its_stop_cuts_no_request(
        seed in any::<u64>(),
        history in prop::collection::vec(moved(), 10_000),
    ) {
        let mut world = World::new(seed);
        let mut idle = Idle::default();
        let mut limits = Limits { idle: Some(Duration::from_secs(60)), lent: None };
        let mut usage = Usage { busy: false, last: world.now };
        let mut gone = 0;
        for moved in history {
            let before = starts(&world, MANUAL);
            // A person's command takes effect at once, or when the live run has ended.
            let person = matches!(
                moved,
                Moved::Start
                    | Moved::Other(Happening::Start { manual: true, .. } | Happening::Restart { manual: true, .. })
            );
            let wanted = person || wanted(&world, MANUAL);
            match moved {
                Moved::Other(happening) => {
                    // A model that leaves the registry loses its generation.
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
                // Several checks in a row: other events rarely leave a ready run alone for longer.
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
            prop_assert!(starts(&world, MANUAL) == before || wanted, "a manual model started by itself");
        }
        prop_assert!(gone > 0, "some runs stopped by themselves");
    }
}

#[test]
fn a_model_that_stopped_by_itself_is_stopped_not_failed() {
    let mut world = World::new(1);
    world.happen(&Happening::Start { manual: true, force: false, wait: true, timeout: None });
    world.signed(&MANUAL.into(), 1, 0);
    let why = StopReason::Idle(Duration::from_secs(7200));
    world.send(Event::Stop { model: MANUAL.into(), waiter: None, why, now: false, drain: None });
    world.signed(&MANUAL.into(), 4, 0);
    world.signed(&MANUAL.into(), 7, 0);
    let model = world.fleet.get(MANUAL).unwrap();
    assert_eq!(model.state, State::Stopped { why });
    assert_eq!(model.reason().as_deref(), Some("idle for 2h (stop.idle)"));
    assert_eq!(StopReason::TimeOver(Duration::from_secs(3600)).text(), "its time of 1h is over");
    let generation = model.generation;
    world.send(Event::Return(MANUAL.into()));
    world.send(Event::Retry(MANUAL.into()));
    world.pass(Duration::from_secs(1_000_000));
    assert_eq!(world.fleet.get(MANUAL).unwrap().generation, generation);
}
