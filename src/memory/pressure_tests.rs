use proptest::prelude::*;

use std::time::Duration;

use super::*;

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

fn model(name: &str, start: Start, gb: u64, yields: bool) -> Running {
    Running { name: name.into(), start, footprint: Bytes::gb(gb), yields }
}

fn models(yields: bool) -> Vec<Running> {
    vec![
        model("32b", Start::Always, 20, yields),
        model("7b", Start::Manual, 5, false),
        model("70b", Start::Manual, 45, false),
    ]
}

fn stops(actions: &[Action]) -> Vec<&str> {
    actions
        .iter()
        .filter_map(|a| if let Action::Stop { model, .. } = a { Some(model.as_str()) } else { None })
        .collect()
}

fn trims(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::TrimAll { .. })).count()
}

#[test]
fn rising_pressure_trims_and_refuses_starts_until_it_has_been_calm_for_the_set_time() {
    let mut policy = Policy::new(PressureSettings::default());
    assert_eq!(policy.refuses(Start::Always, &[]), None);
    assert_eq!(trims(&policy.step(at(0), Pressure::Warning, &models(false), &[])), 1);
    assert!(policy.refuses(Start::Always, &[]).is_some());
    assert_eq!(policy.step(at(10), Pressure::Normal, &models(false), &[]), []);
    assert!(policy.refuses(Start::Manual, &[]).is_some());
    assert_eq!(policy.next(), Some(at(130)));
    assert_eq!(policy.step(at(129), Pressure::Normal, &models(false), &[]), []);
    assert_eq!(policy.step(at(130), Pressure::Normal, &models(false), &[]).len(), 1);
    assert_eq!(policy.refuses(Start::Manual, &[]), None);
}

#[test]
fn critical_pressure_stops_manual_models_largest_first_and_one_at_a_time() {
    let mut policy = Policy::new(PressureSettings::default());
    assert_eq!(stops(&policy.step(at(0), Pressure::Critical, &models(false), &[])), [""; 0]);
    assert_eq!(stops(&policy.step(at(29), Pressure::Critical, &models(false), &[])), [""; 0]);
    assert_eq!(stops(&policy.step(at(30), Pressure::Critical, &models(false), &[])), ["70b"]);
    assert_eq!(
        stops(&policy.step(at(59), Pressure::Critical, &models(false), &[])),
        [""; 0],
        "a model needs time to stop"
    );
    assert_eq!(stops(&policy.step(at(60), Pressure::Critical, &models(false), &[])), ["7b"]);
    assert_eq!(stops(&policy.step(at(900), Pressure::Critical, &models(false), &[])), [""; 0], "32b may not");
}

#[test]
fn an_always_on_model_yields_only_if_allowed_and_comes_back_when_pressure_is_over() {
    let mut policy = Policy::new(PressureSettings::default());
    let only = [model("32b", Start::Always, 20, true)];
    let _ = policy.step(at(0), Pressure::Critical, &only, &[]);
    assert_eq!(stops(&policy.step(at(30), Pressure::Critical, &only, &[])), ["32b"]);
    let _ = policy.step(at(40), Pressure::Normal, &[], &[]);
    let back = policy.step(at(160), Pressure::Normal, &[], &[]);
    assert!(back.contains(&Action::Return { model: "32b".into() }), "{back:?}");
    assert_eq!(policy.step(at(300), Pressure::Normal, &only, &[]), [], "only once");
}

#[test]
fn critical_pressure_that_lets_up_restarts_its_hold() {
    let mut policy = Policy::new(PressureSettings::default());
    let _ = policy.step(at(0), Pressure::Critical, &models(false), &[]);
    let _ = policy.step(at(20), Pressure::Warning, &models(false), &[]);
    let _ = policy.step(at(21), Pressure::Critical, &models(false), &[]);
    assert_eq!(stops(&policy.step(at(31), Pressure::Critical, &models(false), &[])), [""; 0]);
    assert_eq!(stops(&policy.step(at(51), Pressure::Critical, &models(false), &[])), ["70b"]);
}

#[test]
fn models_yield_only_while_the_game_runs() {
    let all =
        [YieldAction::Trim, YieldAction::LowerPriority, YieldAction::RefuseManual, YieldAction::StopManual];
    let mut policy =
        Policy::new(PressureSettings { yield_actions: all.into(), ..PressureSettings::default() });
    let game = ["Civilization V".to_owned()];
    let on = policy.step(at(0), Pressure::Normal, &models(false), &game);
    assert_eq!((trims(&on), stops(&on)), (1, vec!["7b", "70b"]));
    assert!(on.contains(&Action::Prioritise(Priority::Background)));
    assert!(policy.refuses(Start::Manual, &[]).is_some() && policy.refuses(Start::Always, &[]).is_none());
    assert_eq!(policy.step(at(1), Pressure::Normal, &models(false), &game), [], "once");
    assert_eq!(
        policy.step(at(100), Pressure::Normal, &models(false), &[]),
        [],
        "its launcher may restart it"
    );
    assert_eq!(policy.step(at(110), Pressure::Normal, &models(false), &game), []);
    assert_eq!(policy.step(at(200), Pressure::Normal, &models(false), &[]), []);
    let off = policy.step(at(215), Pressure::Normal, &models(false), &[]);
    assert!(off.contains(&Action::Prioritise(Priority::Normal)), "{off:?}");
    assert_eq!(policy.refuses(Start::Manual, &[]), None);
}

#[test]
fn a_pace_and_a_hold_last_until_the_game_has_been_gone_for_15_seconds() {
    let settings = PressureSettings {
        yield_actions: [YieldAction::Hold].into(),
        pace: Some(Percent(50)),
        ..PressureSettings::default()
    };
    let mut policy = Policy::new(settings.clone());
    let game = ["Civ5XP".to_owned()];
    let mut seen = |second, programs: &[String]| {
        let _ = policy.step(at(second), Pressure::Normal, &models(false), programs);
        (policy.pace(), policy.holds())
    };
    let (on, off) = ((Some(Percent(50)), true), (None, false));
    assert_eq!(seen(0, &[]), off);
    assert_eq!(seen(1, &game), on);
    assert_eq!(seen(100, &[]), on);
    assert_eq!(seen(114, &[]), on, "it may be restarted");
    assert_eq!(seen(114, &game), on);
    assert_eq!(seen(200, &[]), on);
    assert_eq!(seen(215, &[]), off);
    // New settings apply at once, even while a game runs.
    assert_eq!(seen(300, &game), on);
    policy.set(PressureSettings { pace: None, ..settings });
    assert_eq!((policy.pace(), policy.holds()), (None, true));
}

#[test]
fn a_program_to_yield_to_is_named_even_before_a_step_has_seen_it() {
    let actions = [YieldAction::RefuseManual].into();
    let mut policy = Policy::new(PressureSettings { yield_actions: actions, ..PressureSettings::default() });
    let game = ["Civ5XP".to_owned()];
    assert_eq!(policy.refuses(Start::Manual, &[]), None);
    let named = "Civ5XP is running, and the models yield to it".to_owned();
    assert_eq!(policy.refuses(Start::Manual, &game).as_ref(), Some(&named));
    assert_eq!(policy.refuses(Start::Always, &game), None);
    assert_eq!(policy.yielding_to(), [""; 0]);
    let seen = policy.step(at(0), Pressure::Normal, &models(false), &game);
    assert!(seen.contains(&Action::Changed { what: named }), "{seen:?}");
    assert_eq!(policy.yielding_to(), game);
    let _ = policy.step(at(10), Pressure::Normal, &models(false), &[]);
    assert!(policy.refuses(Start::Manual, &[]).unwrap().starts_with("Civ5XP ran a moment ago"));
    let over = policy.step(at(25), Pressure::Normal, &models(false), &[]);
    let ended = "Civ5XP has ended: the models no longer yield".to_owned();
    assert!(over.contains(&Action::Changed { what: ended }), "{over:?}");
    assert_eq!(policy.yielding_to(), [""; 0]);
}

fn pressures() -> impl Strategy<Value = Vec<(u64, Pressure, bool)>> {
    let level = prop_oneof![Just(Pressure::Normal), Just(Pressure::Warning), Just(Pressure::Critical)];
    prop::collection::vec((1_u64..60, level, any::<bool>()), 1..80)
}

proptest! {
    /// However pressure and the game come and go, an episode trims at most twice and lasts at least `calm_hold`.
    #[test]
    fn nothing_flaps(steps in pressures()) {
        let settings = PressureSettings::default();
        let mut policy = Policy::new(settings.clone());
        let game = ["game".to_owned()];
        let (mut now, mut trims, mut switches, mut stopped) = (0, 0, 0, Vec::new());
        for (wait, pressure, runs) in steps {
            now += wait;
            let actions = policy.step(at(now), pressure, &models(true), if runs { &game } else { &[] });
            trims += actions.iter()
                .filter(|a| matches!(a, Action::TrimAll { why } if why.contains("pressure"))).count();
            switches += actions.iter().filter(|a| matches!(a, Action::Prioritise(_))).count();
            stopped.extend(stops(&actions).into_iter().map(str::to_owned));
            for action in &actions {
                if let Action::Return { model } = action {
                    prop_assert!(stopped.contains(model), "only what was stopped returns");
                }
            }
            prop_assert!(policy.next().is_none_or(|next| next > at(now)), "no step is left due");
        }
        let longest = usize::try_from(now).unwrap();
        prop_assert!(trims <= 2 * (1 + longest / 120));
        prop_assert!(switches <= 2 * (1 + longest / 15));
        prop_assert!(stopped.len() <= 1 + longest / 30);
    }
}
