//! Single histories.

use super::*;

#[test]
fn a_process_that_ignores_sigterm_is_killed_at_the_deadline_and_not_before() {
    let mut world = World::new(1);
    world.signed(&Name::from(ALWAYS), 1, 0);
    world.happen(&Happening::Stop { manual: false, now: true });
    let mut kills = Vec::new();
    for second in 0..=121 {
        world.now = world.now.after(Duration::from_secs(1));
        for effect in world.fleet.step(world.now, Event::Tick, &mut world.admission) {
            if let Effect::Signal { signal: Signal::Kill, .. } = effect {
                kills.push(second + 1);
            }
        }
    }
    assert_eq!(kills, [120]);
}

#[test]
fn a_crash_after_a_stable_run_spawns_in_the_same_step() {
    let mut world = World::new(1);
    world.signed(&Name::from(ALWAYS), 1, 0);
    world.pass(Duration::from_secs(61));
    world.alive.clear();
    let gone = Event::Of {
        model: Name::from(ALWAYS),
        generation: Generation(1),
        signed: Signed::Gone { exit: Exit::Signal(9), diagnosis: None },
    };
    let effects = world.fleet.step(world.now, gone, &mut world.admission);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Spawn { generation: Generation(2), .. })));
    assert_eq!(world.fleet.get(ALWAYS).map(|model| model.restarts), Some(1));
}

#[test]
fn a_manual_model_that_crashed_stays_down_and_says_why() {
    let mut world = World::new(1);
    world.happen(&Happening::Start { manual: true, force: false, wait: true, timeout: None });
    world.signed(&Name::from(MANUAL), 1, 0);
    world.signed(&Name::from(MANUAL), 7, 0);
    let model = world.fleet.get(MANUAL).unwrap();
    assert!(matches!(model.state, State::Failed { .. }));
    assert_eq!(model.reason().as_deref(), Some("run #1 was ended by SIGKILL"));
    world.pass(Duration::from_secs(100_000));
    assert!(world.fleet.get(MANUAL).unwrap().state.generation().is_none());
}
