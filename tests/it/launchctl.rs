//! Every answer that launchctl is known to give is understood, and leads to the right next step.

use std::path::Path;
use std::time::Duration;

use mlxctl::internals::service::launchctl::print::{LastExit, Printed, State};
use mlxctl::internals::service::launchctl::procedure::{
    Action, Failure, Goal, Patience, Reply, Step, next, nominal,
};

const START: Goal = Goal::Running { not: None };
const EARLY: Duration = Duration::ZERO;

/// A transcript: the call, `# exit N`, stderr after `! `, stdout.
fn transcript(name: &str) -> Reply {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/transcripts/launchctl/{name}.txt"));
    let text = std::fs::read_to_string(file).unwrap();
    let (call, rest) = text.split_once('\n').unwrap();
    assert!(call.starts_with("$ launchctl "), "{name}: {call}");
    let (exit, rest) = rest.split_once('\n').unwrap();
    let code = exit.strip_prefix("# exit ").unwrap().parse().unwrap();
    let (error, output): (Vec<&str>, Vec<&str>) =
        rest.split_inclusive('\n').partition(|line| line.starts_with("! "));
    let error = error.iter().map(|line| &line[2..]).collect();
    Reply { code, output: output.concat(), error }
}

fn printed(name: &str) -> Printed {
    Printed::parse(&transcript(name).output)
}

fn patience() -> Patience {
    Patience::new(Duration::from_secs(300))
}

/// The action after a transcript; checks as well that a lasting refusal ends when patience runs out.
fn after(goal: Goal, step: Step, name: &str) -> Action {
    next(goal, step, &transcript(name), EARLY, patience())
}

fn too_late(goal: Goal, step: Step, name: &str) -> Failure {
    let late = patience().stop + Duration::from_secs(1);
    match next(goal, step, &transcript(name), late, patience()) {
        Action::Fail(failure) => failure,
        action => panic!("{name} never ends: {action:?}"),
    }
}

#[test]
fn a_running_job_is_read_with_its_process_and_its_program() {
    let job = printed("print-running");
    assert_eq!(job.state, State::Running);
    assert_eq!(job.pid, Some(4711));
    assert_eq!(job.last_end(), None);
    assert_eq!(job.program.as_deref(), Some("/Users/Shared/ganuda/bin/mlxctl"));
    assert_eq!(
        job.path.as_deref(),
        Some(Path::new("/Users/ganuda/Library/LaunchAgents/com.cherokee.mlx-server.plist"))
    );
    assert_eq!(job.runs, Some(1));
}

#[test]
fn a_job_without_process_says_why() {
    let killed = printed("print-running-after-kill");
    assert_eq!((killed.pid, killed.last_end().as_deref()), (Some(4799), Some("Killed: 9")));
    let ended = printed("print-not-running");
    assert_eq!((ended.state, ended.pid), (State::NotRunning, None));
    assert_eq!(ended.last_exit, Some(LastExit { code: 0, name: None }));
    let missing = printed("print-missing-program");
    assert_eq!(missing.state, State::SpawnScheduled);
    assert_eq!(missing.last_end().as_deref(), Some("exit 78 (EX_CONFIG)"));
    assert_eq!(printed("print-spawn-scheduled").runs, Some(7));
}

#[test]
fn a_job_that_runs_the_plain_server_is_recognised() {
    let program = printed("print-plain-server").program.unwrap();
    assert!(program.ends_with("mlx_venv/bin/python3"), "{program}");
}

#[test]
fn loading_continues_through_temporary_refusals() {
    use Step::*;
    for (step, name, expected) in [
        (Bootstrap, "bootstrap-5", Action::Wait(Bootstrap)),
        (Bootstrap, "bootstrap-36", Action::Wait(AwaitGone)),
        (Bootstrap, "bootstrap-37", Action::Run(Kickstart)),
        (Bootstrap, "bootstrap-119", Action::Wait(Enable)),
        (Kickstart, "kickstart-37", Action::Run(Confirm)),
        (Kickstart, "kickstart-113", Action::Run(Enable)),
        (Kickstart, "kickstart-119", Action::Wait(Enable)),
        (Confirm, "print-running", Action::Done(Some(4711))),
        (Confirm, "print-spawn-scheduled", Action::Wait(Confirm)),
        (Confirm, "print-113", Action::Wait(Bootstrap)),
        (AwaitGone, "print-113", Action::Run(Enable)),
    ] {
        assert_eq!(after(START, step, name), expected, "{step:?} {name}");
    }
}

#[test]
fn a_lasting_refusal_is_a_failure_with_a_hint() {
    assert_eq!(after(START, Step::Bootstrap, "bootstrap-112"), Action::Fail(Failure::NoSession));
    assert_eq!(after(START, Step::Bootstrap, "bootstrap-125"), Action::Fail(Failure::WrongDomain));
    assert!(Failure::WrongDomain.hint(None).contains("without sudo"));
    assert!(matches!(too_late(START, Step::Bootstrap, "bootstrap-5"), Failure::Refused { .. }));
    assert_eq!(too_late(START, Step::Bootstrap, "bootstrap-119"), Failure::Disabled);
    let nothing_runs = too_late(START, Step::Confirm, "print-missing-program");
    assert_eq!(
        nothing_runs.to_string(),
        "the job is loaded, but has no process (state: spawn scheduled, last end: exit 78 (EX_CONFIG))"
    );
}

#[test]
fn a_job_that_waits_for_a_session_is_explained_over_ssh_only() {
    let session = |name| transcript(name).output.trim().to_owned();
    let pending = too_late(START, Step::Confirm, "print-spawn-scheduled");
    assert!(pending.hint(Some(&session("managername-ssh"))).contains("SSH"));
    assert!(!pending.hint(Some(&session("managername-aqua"))).contains("SSH"));
}

#[test]
fn unloading_polls_only_until_the_job_is_gone() {
    use Step::*;
    for name in ["bootout-3", "bootout-36", "print-113", "print-112"] {
        assert_eq!(after(Goal::Gone, Bootout, name), Action::Run(AwaitGone), "{name}");
    }
    assert_eq!(after(Goal::Gone, AwaitGone, "print-running"), Action::Wait(AwaitGone));
    assert_eq!(after(Goal::Gone, AwaitGone, "print-113"), Action::Done(None));
    assert_eq!(after(Goal::Gone, AwaitGone, "print-112"), Action::Done(None));
    assert!(matches!(too_late(Goal::Gone, AwaitGone, "print-running"), Failure::StillThere { .. }));
}

#[test]
fn a_restart_is_not_confirmed_by_the_process_of_before() {
    let goal = Goal::Running { not: Some(4711) };
    assert_eq!(after(goal, Step::Confirm, "print-running"), Action::Wait(Step::Confirm));
    assert_eq!(after(goal, Step::Confirm, "print-running-after-kill"), Action::Done(Some(4799)));
}

#[test]
fn every_code_at_every_step_ends() {
    use Step::*;
    let late = patience().stop + Duration::from_secs(1);
    for step in [Enable, Bootstrap, Kickstart, Restart, Confirm, Bootout, Unpin, AwaitGone] {
        for code in 0..=255 {
            for goal in [START, Goal::Gone] {
                // The longest sequence without success: no step may lead back to itself once it is late.
                let mut at = step;
                for hop in 0.. {
                    assert!(hop < 16, "{step:?} with code {code} goes in a circle");
                    let reply = Reply { code, output: String::new(), error: String::new() };
                    match next(goal, at, &reply, late, patience()) {
                        Action::Run(step) | Action::Wait(step) => at = step,
                        Action::Done(_) | Action::Fail(_) => break,
                    }
                }
            }
        }
    }
}

#[test]
fn a_dry_run_shows_the_calls_of_an_untroubled_installation() {
    use Step::*;
    assert_eq!(nominal(START, Enable), [Enable, Bootstrap, Confirm]);
    assert_eq!(nominal(START, Bootout), [Bootout, AwaitGone, Enable, Bootstrap, Confirm]);
    assert_eq!(nominal(Goal::Gone, Bootout), [Bootout, AwaitGone]);
    assert_eq!(nominal(Goal::Running { not: Some(7) }, Restart), [Restart, Confirm]);
}
