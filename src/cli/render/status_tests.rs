use super::super::sample;
use super::*;
use unicode_width::UnicodeWidthStr;

fn look(width: usize) -> Look {
    Look { width, color: false, unicode: true }
}

#[test]
fn every_state_is_drawn() {
    insta::assert_snapshot!(status(&sample::every_state(), &look(usize::MAX)));
}

#[test]
fn the_deployment_is_drawn_at_its_usual_widths() {
    insta::assert_snapshot!("wide", status(&sample::status(), &look(160)));
    insta::assert_snapshot!("roomy", status(&sample::status(), &look(120)));
    insta::assert_snapshot!("usual", status(&sample::status(), &look(80)));
    insta::assert_snapshot!("small", status(&sample::status(), &look(60)));
    insta::assert_snapshot!("narrow", status(&sample::status(), &look(40)));
}

#[test]
fn a_sleeping_model_and_a_paced_one_are_drawn_at_every_width() {
    insta::assert_snapshot!(sample::at_every_width(|look| {
        let text = status(&sample::asleep_and_paced(), look);
        let from = text.find("MODEL").unwrap();
        sample::aligned(text[from..].split("router:").next().unwrap());
        text
    }));
}

#[test]
fn no_supervisor_is_drawn_as_a_plan() {
    insta::assert_snapshot!(status(&sample::planned(), &look(80)));
}

#[test]
fn colour_and_ascii_are_drawn() {
    let text = status(&sample::status(), &Look { width: 80, color: true, unicode: false });
    insta::assert_snapshot!(text.replace('\x1b', "␛"));
}

#[test]
fn nothing_is_wider_than_the_terminal() {
    let asleep = sample::asleep_and_paced();
    for document in [sample::status(), sample::every_state(), sample::planned(), asleep] {
        for width in [36, 40, 59, 60, 61, 80, 100, 120, 132, 160] {
            for line in status(&document, &look(width)).lines() {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
    }
}

#[test]
fn a_model_that_nobody_reaches_is_not_shown_as_well() {
    let mut document = sample::status();
    let taken = "port 8800 is held by nginx (pid 411)".to_owned();
    document.models[0].gate = crate::api::GateStatus { listening: vec![], problem: Some(taken.clone()) };
    document.supervisor.as_mut().unwrap().waiting_for = vec![taken.clone()];
    let text = status(&document, &Look { width: 120, color: true, unicode: true });
    assert!(text.contains("\x1b[31m● ready, not reachable"), "{text}");
    assert!(text.contains("not reachable: port 8800 is held by nginx (pid 411)"), "{text}");
    assert_eq!(text.matches("nginx").count(), 1, "{text}");
    document.models[0].gate.listening = vec!["127.0.0.1:8800".to_owned()];
    let text = status(&document, &Look { width: 120, color: true, unicode: true });
    assert!(text.contains("\x1b[33m● ready") && !text.contains("not reachable"), "{text}");
}

#[test]
fn a_program_that_the_models_yield_to_is_named() {
    let mut document = sample::status();
    document.supervisor.as_mut().unwrap().yielding_to = vec!["Civilization V".to_owned()];
    let text = status(&document, &look(100));
    assert!(text.lines().next().unwrap().ends_with("yielding to Civilization V"), "{text}");
    for (pace, holding, how) in [
        (Some(50), false, "pacing for Civilization V"),
        (None, true, "holding for Civilization V"),
        (Some(50), true, "pacing and holding for Civilization V"),
    ] {
        let supervisor = document.supervisor.as_mut().unwrap();
        (supervisor.pace_percent, supervisor.holding) = (pace, holding);
        for width in [60, 80, 120, 160] {
            let text = status(&document, &look(width));
            let head: Vec<&str> = text.lines().take(2).collect();
            assert!(head.iter().any(|line| line.ends_with(how)), "{width}: {text}");
            assert!(head.iter().all(|line| line.width() <= width), "{width}: {text}");
        }
    }
}

#[test]
fn a_forgotten_model_is_called_idle_and_its_end_is_told() {
    let note = |start, idle, left| {
        let mut document = sample::status();
        let model = &mut document.models[0];
        (model.start, model.idle_seconds, model.stops_in_seconds) = (start, idle, left);
        let text = status(&document, &look(100));
        text.lines().find_map(|line| line.strip_prefix("32b: ").map(|text| text.trim().to_owned()))
    };
    let manual = |idle, left| note(Start::Manual, idle, left);
    assert_eq!(manual(Some(6480.0), Some(720.0)).as_deref(), Some("stops in 12m 0s, idle for 1h 48m"));
    assert_eq!(manual(None, Some(720.0)).as_deref(), Some("stops in 12m 0s"));
    assert_eq!(manual(None, Some(0.0)).as_deref(), Some("stops when its requests are done"));
    assert_eq!(manual(Some(259_300.0), None).as_deref(), Some("idle for 3d 0h"));
    assert_eq!(manual(Some(600.0), None), None);
    assert_eq!(note(Start::Always, Some(259_300.0), None), None);
}

#[test]
fn a_backend_without_a_supervisor_is_not_the_plan() {
    let mut document = sample::planned();
    document.models[0].state = StateName::Unsupervised;
    document.models[0].pid = Some(4711);
    let text = status(&document, &look(100));
    assert!(text.starts_with("no supervisor is running · 1 backend is running without one\n"), "{text}");
    assert!(text.contains("● unsupervised"), "{text}");
}

#[test]
fn running_backends_have_a_line_each() {
    insta::assert_snapshot!(sample::at_every_width(|look| {
        let text = backends(&sample::every_state(), look);
        sample::aligned(&text);
        text
    }));
}
