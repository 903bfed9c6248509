//! Single histories, written out.

use super::*;

#[test]
fn a_process_that_ignores_sigterm_is_killed_at_the_deadline() {
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

#[test]
fn a_model_without_its_files_fails_once_and_comes_back_when_they_are_there() {
    let mut world = World::new(1);
    world.signed(&Name::from(ALWAYS), 1, 0);
    world.admission.missing = true;
    world.signed(&Name::from(ALWAYS), 7, 0);
    world.pass(Duration::from_secs(2));
    let model = world.fleet.get(ALWAYS).unwrap().clone();
    assert!(model.state.waits_for_files(), "{model:?}");
    world.pass(Duration::from_secs(100_000));
    assert_eq!(world.fleet.get(ALWAYS), Some(&model), "it is not retried by itself");
    world.admission.missing = false;
    world.send(Event::Retry(Name::from(ALWAYS)));
    assert!(world.fleet.get(ALWAYS).unwrap().state.generation().is_some());
}

#[test]
fn a_manual_model_still_waits_for_a_command_when_its_files_arrive() {
    let mut world = World::new(1);
    world.admission.missing = true;
    world.happen(&Happening::Start { manual: true, force: false, wait: true, timeout: None });
    assert!(world.fleet.get(MANUAL).unwrap().state.waits_for_files());
    world.admission.missing = false;
    world.send(Event::Retry(Name::from(MANUAL)));
    assert_eq!(world.fleet.get(MANUAL).unwrap().state.generation(), None);
}

#[test]
fn a_restart_without_files_leaves_the_working_run_alone() {
    let mut world = World::new(1);
    world.signed(&Name::from(ALWAYS), 1, 0);
    world.admission.missing = true;
    let before = world.fleet.get(ALWAYS).unwrap().state.clone();
    let waiter = world.waiter();
    let restart = Event::Restart { model: Name::from(ALWAYS), waiter, now: true, drain: None };
    let effects = world.fleet.step(world.now, restart, &mut world.admission);
    assert_eq!(world.fleet.get(ALWAYS).unwrap().state, before);
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Reply { outcome: Outcome::Failed(failure), .. } => Some(failure),
        _ => None,
    });
    assert_eq!(told.unwrap().kind, FailureKind::Refused);
}
