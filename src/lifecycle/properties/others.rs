//! Starts in which other machines have a say.

use super::*;

#[test]
fn a_start_by_hand_that_another_machine_refuses_is_answered_and_changes_nothing() {
    let mut world = World::new(1);
    world.admission.others = true;
    let before = world.fleet.get(MANUAL).unwrap().state.clone();
    world.happen(&Happening::Start { manual: true, force: false, wait: false, timeout: None });
    assert!(!world.waiting.is_empty(), "nothing is granted before they have answered");
    assert_eq!(world.fleet.reserved().len(), 2, "but its bytes are reserved");
    world.answer(&Name::from(MANUAL), false, 0);
    assert!(world.waiting.is_empty());
    assert_eq!(world.fleet.get(MANUAL).unwrap().state, before);
    assert_eq!(world.fleet.reserved().len(), 1);
}

#[test]
fn what_comes_back_by_itself_asks_again_until_the_others_agree() {
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
fn a_stop_while_the_others_are_asked_waits_for_nobody() {
    let mut world = World::new(1);
    world.admission.others = true;
    world.happen(&Happening::Start { manual: true, force: false, wait: true, timeout: None });
    world.happen(&Happening::Stop { manual: true, now: false });
    assert!(world.waiting.is_empty());
    assert_eq!(world.fleet.get(MANUAL).unwrap().state, State::Stopped { why: StopReason::ByHand });
}
