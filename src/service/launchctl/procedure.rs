//! How to start a job, and how to remove it, given every answer that launchctl is known to give.
//! Pure: the caller provides the clock and runs the command.
//!
//! launchctl exits with its own error numbers. Those that matter here: 3 not loaded, 5 anything from "already loaded"
//! to "no GUI session", 36 a bootout is still in progress, 37 already loaded, 112 no such domain, 113 no such service,
//! 119 disabled, 125 wrong domain.

use std::time::Duration;

use super::print::Printed;

/// What should be true in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The job has a process other than the one named (the one before a restart).
    Running {
        /// The process that does not count.
        not: Option<i32>,
    },
    /// The job is no longer loaded.
    Gone,
}

/// One call of launchctl, by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// `enable`: clears the record that `launchctl disable` and `unload -w` leave; harmless otherwise.
    Enable,
    /// `bootstrap`: loads the job from its property list.
    Bootstrap,
    /// `kickstart`: starts a job that is loaded.
    Kickstart,
    /// `kickstart -k`: ends the process and starts another.
    Restart,
    /// `print`, until there is a process.
    Confirm,
    /// `bootout`: ends the process and unloads the job.
    Bootout,
    /// `bootout` of a job whose process is killed as soon as it starts. macOS 26 records the identity of an ad-hoc
    /// signed program when its job is loaded, and kills a different one until the job is loaded again.
    Unpin,
    /// `print`, until there is no job.
    AwaitGone,
}

/// Exit code and output of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: i32,
    pub output: String,
    pub error: String,
}

/// What to do after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the next call at once.
    Run(Step),
    /// Make the next call after a pause.
    Wait(Step),
    /// The goal is reached; the job's process, if that was the goal.
    Done(Option<i32>),
    Fail(Failure),
}

/// Why the goal cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("launchd cannot run this job in this user's domain (code 125)")]
    WrongDomain,
    #[error("this user has no GUI session, which the job needs (code 112)")]
    NoSession,
    /// Code 5 until patience ran out.
    #[error("launchd refused to load the job for {}s (code 5)", .waited.as_secs())]
    Refused { waited: Duration },
    /// Code 119, although the job was enabled.
    #[error("launchd keeps the job disabled (code 119)")]
    Disabled,
    /// The process from before the restart is still there.
    #[error("the previous supervisor (pid {pid}) is still running after {}s", .waited.as_secs())]
    SameProcess {
        pid: i32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The job is loaded, but nothing runs.
    #[error("the job is loaded, but has no process (state: {}{})", .0.state.as_str(),
        .0.last_end().map(|end| format!(", last end: {end}")).unwrap_or_default())]
    NoProcess(Box<Printed>),
    #[error("launchd still has the job after {}s", .waited.as_secs())]
    StillThere {
        /// How long it was waited for.
        waited: Duration,
    },
    /// An answer that is not documented.
    #[error("`launchctl {verb}` failed with code {code}{}", if .error.is_empty() { String::new() } else { format!(": {error}") })]
    Unknown { verb: &'static str, code: i32, error: String },
}

impl Failure {
    /// What to do about it. `session` is what `launchctl managername` said, if it said anything.
    pub fn hint(&self, session: Option<&str>) -> String {
        let remote = session.is_some_and(|name| name != "Aqua");
        match self {
            // The GUI domain of a user who is not logged in at the screen answers so.
            Self::WrongDomain if remote => LOG_IN.into(),
            Self::WrongDomain => "run it as the user who logs in at the Mac, without sudo".into(),
            Self::NoSession => LOG_IN.into(),
            // Without a session the job waits for one, with the same code 5 as for a file with the wrong owner.
            Self::Refused { .. } | Self::NoProcess(_) if remote => LOG_IN.into(),
            Self::Refused { .. } => {
                "look at the job with `launchctl print`; the file must belong to you and be \
                                     writable only by you (chmod 644)"
                    .into()
            }
            Self::Disabled => {
                "a management profile may forbid it: System Settings > General > Login Items".into()
            }
            Self::NoProcess(_) => {
                "look into the log that the property list names; `mlxctl doctor` checks program, \
                                   folders and rights"
                    .into()
            }
            Self::SameProcess { .. } => {
                "it is finishing requests in flight (see `mlxctl status`); try again in a moment".into()
            }
            Self::StillThere { .. } => {
                "a backend may still be draining: `mlxctl status`, then try again".into()
            }
            Self::Unknown { .. } => {
                "`mlxctl agent status` shows what launchd has; `mlxctl doctor` checks the rest".into()
            }
        }
    }
}

const LOG_IN: &str = "log in at the Mac's own screen (or over Screen Sharing) and run it in Terminal there; \
                      over SSH alone launchd keeps the job waiting";

/// How long, and how often, to retry. Times are measured from the first call of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long to retry on code 5 or 119, and to wait for a process.
    pub start: Duration,
    /// How long a job may take to end: its exit timeout and some more.
    pub stop: Duration,
    /// Whether a job whose process is killed at its start may still be unloaded and loaded again.
    pub unpin: bool,
}

impl Patience {
    /// 15 s for a start, `exit_timeout` plus 15 s for an end, and one reload.
    pub fn new(exit_timeout: Duration) -> Self {
        let start = Duration::from_secs(15);
        Self { start, stop: exit_timeout.saturating_add(start), unpin: true }
    }
}

impl Step {
    /// The subcommand of launchctl that it calls.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Enable => "enable",
            Self::Bootstrap => "bootstrap",
            Self::Kickstart | Self::Restart => "kickstart",
            Self::Confirm | Self::AwaitGone => "print",
            Self::Bootout | Self::Unpin => "bootout",
        }
    }
}

/// What to do after `reply` to `step`, at `waited` after its first call.
pub fn next(goal: Goal, step: Step, reply: &Reply, waited: Duration, patience: Patience) -> Action {
    // A code that the step has no rule for.
    let unknown = || match reply.code {
        112 => Action::Fail(Failure::NoSession),
        125 => Action::Fail(Failure::WrongDomain),
        code => {
            let error = reply.error.trim().lines().next_back().unwrap_or_default().to_owned();
            Action::Fail(Failure::Unknown { verb: step.verb(), code, error })
        }
    };
    let unless_late = |next: Step, failure: Failure| {
        if waited < patience.start { Action::Wait(next) } else { Action::Fail(failure) }
    };
    match (step, reply.code) {
        (Step::Enable, 0) => Action::Run(Step::Bootstrap),
        (Step::Enable, _) => unknown(),

        (Step::Bootstrap, 0) => Action::Run(Step::Confirm),
        (Step::Bootstrap, 5) => unless_late(Step::Bootstrap, Failure::Refused { waited }),
        // An earlier bootout is still in progress: wait for it, then load again.
        (Step::Bootstrap, 36) => Action::Wait(Step::AwaitGone),
        (Step::Bootstrap, 37) => Action::Run(Step::Kickstart),
        (Step::Bootstrap | Step::Kickstart | Step::Restart, 119) => {
            unless_late(Step::Enable, Failure::Disabled)
        }
        (Step::Bootstrap, _) => unknown(),

        // 37: it is already running.
        (Step::Kickstart | Step::Restart, 0 | 37) => Action::Run(Step::Confirm),
        (Step::Kickstart | Step::Restart, 3 | 113) => Action::Run(Step::Enable),
        (Step::Kickstart | Step::Restart, 36) => Action::Wait(Step::AwaitGone),
        (Step::Kickstart | Step::Restart, _) => unknown(),

        (Step::Confirm, 0) => {
            let printed = Printed::parse(&reply.output);
            match (goal, printed.pid) {
                (Goal::Running { not }, Some(pid)) if not != Some(pid) => Action::Done(Some(pid)),
                (_, Some(pid)) => unless_late(Step::Confirm, Failure::SameProcess { pid, waited }),
                (_, None) if printed.last_signal.is_some() && patience.unpin => Action::Run(Step::Unpin),
                (_, None) => unless_late(Step::Confirm, Failure::NoProcess(Box::new(printed))),
            }
        }
        (Step::Confirm, 3 | 113) => unless_late(Step::Bootstrap, Failure::NoProcess(Box::default())),
        (Step::Confirm, _) => unknown(),

        // Not loaded, in a domain that does not exist, or already ending: the next step is the same.
        (Step::Bootout | Step::Unpin, 0 | 3 | 36 | 112 | 113) => Action::Run(Step::AwaitGone),
        (Step::Bootout | Step::Unpin, 5) => unless_late(step, Failure::Refused { waited }),
        (Step::Bootout | Step::Unpin, _) => unknown(),

        (Step::AwaitGone, 3 | 112 | 113) => match goal {
            Goal::Gone => Action::Done(None),
            Goal::Running { .. } => Action::Run(Step::Enable),
        },
        (Step::AwaitGone, 0 | 36) => {
            if waited < patience.stop {
                Action::Wait(Step::AwaitGone)
            } else {
                Action::Fail(Failure::StillThere { waited })
            }
        }
        (Step::AwaitGone, _) => unknown(),
    }
}

/// The steps from `first` on if every call succeeds, as `--dry-run` shows them.
pub fn nominal(goal: Goal, first: Step) -> Vec<Step> {
    let patience = Patience::new(Duration::ZERO);
    let mut steps = vec![first];
    loop {
        let step = steps[steps.len() - 1];
        let (code, output) = match step {
            Step::AwaitGone => (113, String::new()),
            Step::Confirm => (0, format!("\tpid = {}\n", i32::MAX)),
            _ => (0, String::new()),
        };
        match next(goal, step, &Reply { code, output, error: String::new() }, Duration::ZERO, patience) {
            Action::Run(step) | Action::Wait(step) if steps.len() < 16 => steps.push(step),
            _ => return steps,
        }
    }
}
