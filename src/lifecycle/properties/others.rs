//! Starts that other machines have to agree to.

use super::*;

#[test]
fn a_start_by_hand_that_another_machine_refuses_is_answered_and_changes_nothing() {
    let mut world = World::new(1);
    world.admission.others = true;
    let before = world.fleet.get(MANUAL).unwrap().state.clone();
    world.happen(&Happening::Start { manual: true, force: false, wait: false, timeout: None });
    assert!(!world.waiting.is_empty(), "nothing is granted before the machines have answered");
    assert_eq!(world.fleet.reserved().len(), 2, "but its bytes are reserved");
    world.answer(&Name::from(MANUAL), false, 0);
    assert!(world.waiting.is_empty());
    assert_eq!(world.fleet.get(MANUAL).unwrap().state, before);
    assert_eq!(world.fleet.reserved().len(), 1);
}

#[test]
fn a_restart_after_a_crash_asks_again_until_the_others_agree() {
    let mut world = World::new(1);
    let name = Name::from(ALWAYS);
    world.admission.others = true;
    world.signed(&name, 1, 0);
    world.signed(&name, 7, 0);
    world.pass(Duration::from_secs(5));
    world.answer(&name, false, 0);
    let model = world.fleet.get(ALWAYS).unwrap();
    assert!(matches!(&model.state, State::Backoff { last, .. } if last.text == "studio has no room"));
    assert_eq!(model.restarts, 0);
    world.pass(Duration::from_secs(120));
    world.answer(&name, false, 0);
    world.pass(Duration::from_secs(120));
    world.answer(&name, true, 0);
    let model = world.fleet.get(ALWAYS).unwrap();
    assert!(matches!(model.state, State::Loading { .. }), "{:?}", model.state);
    assert_eq!(model.restarts, 1);
}

#[test]
fn a_stop_does_not_wait_for_the_answers_of_other_machines() {
    let mut world = World::new(1);
    world.admission.others = true;
    world.happen(&Happening::Start { manual: true, force: false, wait: true, timeout: None });
    world.happen(&Happening::Stop { manual: true, now: false });
    assert!(world.waiting.is_empty());
    assert_eq!(world.fleet.get(MANUAL).unwrap().state, State::Stopped { why: StopReason::ByHand });
}
