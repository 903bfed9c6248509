//! The launchd of the tests follows the documented rules, and our use of launchctl works with it.

use std::path::PathBuf;
use std::time::Duration;

use mlxctl::internals::service::launchctl::print::State;
use mlxctl::internals::service::launchctl::procedure::{Failure, Goal, Patience, Step};
use mlxctl::internals::service::launchctl::{Error, Launchctl};

use crate::fake_launchd::{FakeLaunchd, wait};
use crate::support::program;

const START: Goal = Goal::Running { not: None };

/// A launchd and a job of shell code, not loaded yet.
struct Stage {
    launchd: FakeLaunchd,
    hand: Launchctl,
}

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

impl Stage {
    /// `keys` are added to the plist.
    fn new(script: &str, keys: &str) -> Self {
        let launchd = FakeLaunchd::start();
        let program = launchd.path("job");
        program::write(&program, &format!("#!/bin/sh\n{script}\n"));
        let plist = launchd.path("job.plist");
        let text = format!(
            "<?xml version=\"1.0\"?><plist version=\"1.0\"><dict><key>Label</key><string>job</string>\
             <key>ProgramArguments</key><array><string>{0}</string></array>\
             <key>StandardOutPath</key><string>{0}.log</string><key>StandardErrorPath</key><string>{0}.log</string>\
             <key>KeepAlive</key><true/>{keys}</dict></plist>",
            program.display()
        );
        std::fs::write(&plist, text).unwrap();
        let hand = Launchctl {
            program: launchd.program(),
            patience: Patience { start: Duration::from_secs(30), stop: Duration::from_secs(30), unpin: true },
            pause: Duration::from_millis(20),
            ..Launchctl::new(uid(), "job", &plist, Duration::ZERO)
        };
        Self { launchd, hand }
    }

    fn drive(&self, goal: Goal, first: Step) -> Result<Option<i32>, Error> {
        self.hand.drive(goal, first, &mut |_| {})
    }

    fn load(&self) -> i32 {
        self.drive(START, Step::Enable).unwrap().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.launchd.path("job.log")).unwrap_or_default()
    }

    fn service(&self) -> String {
        format!("gui/{}/job", uid())
    }

    fn plist(&self) -> PathBuf {
        self.hand.plist.clone()
    }
}

const SLEEP: &str = "exec sleep 600";

#[test]
fn a_job_is_loaded_once_and_unloaded_until_it_is_gone() {
    let stage = Stage::new(SLEEP, "");
    let pid = stage.load();
    assert_eq!(stage.hand.print().unwrap().unwrap().pid, Some(pid));
    let (domain, plist) = (format!("gui/{}", uid()), stage.plist());
    assert_eq!(stage.launchd.launchctl(&["bootstrap", &domain, plist.to_str().unwrap()]).0, 5);
    assert_eq!(stage.launchd.launchctl(&["bootstrap", "gui/4711", plist.to_str().unwrap()]).0, 125);
    assert_eq!(stage.drive(Goal::Gone, Step::Bootout).unwrap(), None);
    assert_eq!(stage.launchd.launchctl(&["bootout", &stage.service()]).0, 3);
    assert_eq!(stage.launchd.launchctl(&["print", &stage.service()]).0, 113);
}

#[test]
fn a_job_that_ends_comes_back_after_its_throttle() {
    let mut stage = Stage::new(SLEEP, "<key>ThrottleInterval</key><integer>2</integer>");
    // Seen between its two processes, it would be taken for one that is killed at its start, and be loaded again.
    stage.hand.patience.unpin = false;
    let first = stage.load();
    assert_eq!(stage.launchd.launchctl(&["kill", "SIGKILL", &stage.service()]).0, 0);
    let second = stage.drive(Goal::Running { not: Some(first) }, Step::Confirm).unwrap().unwrap();
    let printed = stage.hand.print().unwrap().unwrap();
    assert_ne!(first, second);
    assert_eq!(printed.last_end().as_deref(), Some("Killed: 9"));
    assert_eq!(printed.runs, Some(2));
}

#[test]
fn a_job_that_ignores_its_end_is_killed_after_its_exit_timeout() {
    let stage = Stage::new(
        "trap 'echo asked' TERM; echo up; while :; do sleep 0.01; done",
        "<key>ExitTimeOut</key><integer>60</integer>",
    );
    stage.load();
    wait("the trap is set", || stage.log().contains("up"));
    // It does not end at once: the code for that is not a failure.
    let (code, _) = stage.launchd.launchctl(&["bootout", &stage.service()]);
    assert_eq!(code, 36);
    assert_eq!(stage.drive(Goal::Gone, Step::Bootout).unwrap(), None);
    assert!(stage.log().contains("asked"), "it was killed without being asked");
}

#[test]
fn a_disabled_job_is_enabled_on_the_way() {
    let stage = Stage::new(SLEEP, "");
    stage.launchd.launchctl(&["disable", &stage.service()]);
    stage.drive(START, Step::Bootstrap).unwrap();
    assert_eq!(stage.launchd.verbs(), ["disable", "bootstrap", "enable", "bootstrap"]);
}

#[test]
fn temporary_refusals_are_waited_out() {
    let stage = Stage::new(SLEEP, "");
    for code in ["5", "36", "37", "119"] {
        stage.launchd.set("bootstrap-codes", code);
        stage.load();
        stage.drive(Goal::Gone, Step::Bootout).unwrap();
    }
}

#[test]
fn lasting_refusals_end_with_their_name() {
    let stage = Stage::new(SLEEP, "");
    stage.launchd.set("bootstrap-codes", "125");
    let failure = |result: Result<Option<i32>, Error>| match result {
        Err(Error::Refused(failure)) => failure,
        other => panic!("{other:?}"),
    };
    assert_eq!(failure(stage.drive(START, Step::Enable)), Failure::WrongDomain);
    stage.launchd.set("no-domain", "");
    assert_eq!(failure(stage.drive(START, Step::Enable)), Failure::NoSession);
    // Without a domain there is nothing to unload, so the goal is reached.
    assert_eq!(stage.drive(Goal::Gone, Step::Bootout).unwrap(), None);
}

#[test]
fn a_file_that_others_may_write_is_refused_until_that_is_fixed() {
    use std::os::unix::fs::PermissionsExt;
    let mut stage = Stage::new(SLEEP, "");
    stage.hand.patience.start = Duration::from_millis(100);
    std::fs::set_permissions(stage.plist(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let result = stage.drive(START, Step::Enable);
    assert!(matches!(result, Err(Error::Refused(Failure::Refused { .. }))), "{result:?}");
}

#[test]
fn a_job_that_waits_for_a_session_is_not_called_running() {
    let mut stage = Stage::new(SLEEP, "");
    stage.hand.patience.start = Duration::from_millis(200);
    stage.launchd.set("no-session", "");
    stage.launchd.set("managername", "Background\n");
    let Err(Error::Refused(failure)) = stage.drive(START, Step::Enable) else { panic!("called running") };
    assert!(matches!(failure, Failure::NoProcess(_)), "{failure:?}");
    assert!(failure.hint(stage.hand.session().as_deref()).contains("SSH"));
}

#[test]
fn a_missing_program_is_found_by_its_missing_process() {
    let mut stage = Stage::new(SLEEP, "");
    stage.hand.patience.start = Duration::from_millis(200);
    std::fs::remove_file(stage.launchd.path("job")).unwrap();
    let Err(Error::Refused(Failure::NoProcess(printed))) = stage.drive(START, Step::Enable) else {
        panic!("called running");
    };
    assert_eq!(printed.state, State::SpawnScheduled);
    assert_eq!(printed.last_end().as_deref(), Some("exit 78 (EX_CONFIG)"));
}

#[test]
fn what_a_job_leaves_in_its_group_is_signalled_unless_the_plist_says_otherwise() {
    for (keys, survives) in [("", false), ("<key>AbandonProcessGroup</key><true/>", true)] {
        let stage = Stage::new(&format!("sleep 600 & echo child $!; {SLEEP}"), keys);
        stage.load();
        wait("the child is named", || stage.log().contains("child"));
        let log = stage.log();
        let child: i32 = log.split_whitespace().nth(1).unwrap().parse().unwrap();
        stage.drive(Goal::Gone, Step::Bootout).unwrap();
        let child = nix::unistd::Pid::from_raw(child);
        if survives {
            assert_eq!(nix::sys::signal::kill(child, None), Ok(()));
            nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        } else {
            // An orphan that has ended stays a zombie until it is reaped.
            wait("the child is gone", || !alive(child.as_raw()));
        }
    }
}

/// Whether a process is running; a zombie is not.
fn alive(pid: i32) -> bool {
    let output =
        std::process::Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8(output.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// macOS 26: kickstart and KeepAlive start the new program with the old one's identity, and it is killed.
#[test]
fn a_job_with_a_replaced_program_is_reloaded_and_only_once() {
    let mut stage = Stage::new(SLEEP, "");
    stage.launchd.set("pins", "");
    let first = stage.load();
    let job = stage.launchd.path("job");
    std::fs::remove_file(&job).unwrap();
    program::write(&job, &format!("#!/bin/sh\n# another one\n{SLEEP}\n"));
    let second = stage.drive(Goal::Running { not: Some(first) }, Step::Restart).unwrap().unwrap();
    assert_ne!(first, second);
    let verbs = stage.launchd.verbs();
    assert_eq!(verbs, ["enable", "bootstrap", "kickstart", "bootout", "enable", "bootstrap"]);

    // One that is killed for another reason is not reloaded forever.
    std::fs::remove_file(&job).unwrap();
    program::write(&job, "#!/bin/sh\nkill -KILL $$\n");
    stage.hand.patience.start = Duration::from_millis(300);
    let result = stage.drive(Goal::Running { not: None }, Step::Restart);
    let Err(Error::Refused(Failure::NoProcess(printed))) = result else { panic!("{result:?}") };
    assert_eq!(printed.last_end().as_deref(), Some("Killed: 9"));
    let bootouts = stage.launchd.verbs().iter().filter(|verb| *verb == "bootout").count();
    assert_eq!(bootouts, 2, "once for each drive");
}

#[test]
fn a_supervisor_that_does_not_end_is_not_reported_as_a_missing_process() {
    let mut stage = Stage::new(SLEEP, "");
    let pid = stage.load();
    stage.hand.patience.start = Duration::from_millis(200);
    let result = stage.drive(Goal::Running { not: Some(pid) }, Step::Kickstart);
    let Err(Error::Refused(failure @ Failure::SameProcess { .. })) = result else { panic!("{result:?}") };
    assert!(failure.to_string().contains(&format!("(pid {pid}) is still running")), "{failure}");
    assert!(failure.hint(None).contains("requests in flight"));
}
