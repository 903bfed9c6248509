//! The agent as a launchd job in the user's GUI session.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Agent, AgentError, Handed, Install, Seen, discard};
use crate::registry;
use crate::service::difference::differences;
use crate::service::launchctl::print::Printed;
use crate::service::launchctl::procedure::{Goal, Step, nominal};
use crate::service::launchctl::{Error, Launchctl};
use crate::service::launchd::Job;

#[derive(Debug)]
pub(crate) struct LaunchdAgent {
    hand: Launchctl,
    job: Job,
    program: PathBuf,
    text: String,
}

impl LaunchdAgent {
    /// `agent` of the user `uid` whose home folder is `home`.
    ///
    /// # Errors
    /// The property list cannot be written.
    pub(crate) fn new(
        agent: &registry::Agent,
        program: &Path,
        config: &Path,
        home: &Path,
        uid: u32,
    ) -> Result<Self, AgentError> {
        let job = Job::new(agent, program, config);
        let text = job.to_xml().map_err(|error| AgentError {
            what: format!("the property list cannot be written: {error}"),
            hint: "mlxctl check".into(),
        })?;
        let plist = home.join("Library/LaunchAgents").join(format!("{}.plist", agent.label));
        let hand = Launchctl::new(uid, &agent.label, &plist, agent.exit_timeout);
        Ok(Self { hand, job, program: program.to_owned(), text })
    }

    /// Calls `launchctl` instead of `/bin/launchctl`, and waits `patience` instead of 15 s for a start.
    pub(crate) fn with_launchctl(mut self, launchctl: PathBuf, patience: Duration) -> Self {
        self.hand.program = launchctl;
        self.hand.patience.start = patience;
        self.hand.pause = patience / 100;
        self
    }

    fn drive(&self, goal: Goal, first: Step, say: &mut dyn FnMut(&str)) -> Result<Option<i32>, AgentError> {
        let mut progress = |step: Step| say(words(step));
        self.hand.drive(goal, first, &mut progress).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &Error) -> AgentError {
        let hint = match error {
            Error::Call { .. } => {
                "launchd exists only on macOS; elsewhere the agent is a systemd user unit".to_owned()
            }
            Error::Refused(failure) => failure.hint(self.hand.session().as_deref()),
        };
        AgentError { what: error.to_string(), hint }
    }

    fn shown(hand: &Launchctl, goal: Goal, first: Step) -> Vec<String> {
        let call = |step| format!("launchctl {}", hand.arguments(step).join(" "));
        nominal(goal, first).into_iter().map(call).collect()
    }

    /// The job in the domain without a screen, if it is there: loaded over SSH, or by a tool that knows only that one.
    fn misplaced(&self) -> Option<(Launchctl, Printed)> {
        let other = self.hand.elsewhere();
        // Best effort: launchctl may say nothing about that domain.
        let printed = other.print().ok().flatten()?;
        Some((other, printed))
    }

    /// The commands that [`Self::clear_misplaced`] would run.
    fn calls_to_clear(&self) -> Vec<String> {
        self.misplaced().map_or_else(Vec::new, |(other, _)| Self::shown(&other, Goal::Gone, Step::Bootout))
    }

    /// Ends the job in the wrong domain, if it is there.
    fn clear_misplaced(&self, say: &mut dyn FnMut(&str)) -> Result<(), AgentError> {
        let Some((other, _)) = self.misplaced() else { return Ok(()) };
        say(&format!("asking the job in {} to end", other.domain.of(other.uid)));
        let gone = other.drive(Goal::Gone, Step::Bootout, &mut |_| {});
        gone.map(drop).map_err(|error| self.explain(&error))
    }
}

const RUNNING: Goal = Goal::Running { not: None };

fn first(install: Install) -> Option<Step> {
    match install {
        Install::Nothing => None,
        Install::Start => Some(Step::Kickstart),
        Install::Load => Some(Step::Enable),
        Install::Replace => Some(Step::Bootout),
    }
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Enable => "allowing the job to start",
        Step::Bootstrap => "loading the job",
        Step::Kickstart => "starting the job",
        Step::Restart => "ending the supervisor and starting another",
        Step::Confirm => "waiting for its process",
        Step::Bootout => "asking the job to end",
        Step::Unpin => "loading the job again, because its process is killed as soon as it starts",
        Step::AwaitGone => "waiting until it is gone",
    }
}

impl Agent for LaunchdAgent {
    fn manager(&self) -> &'static str {
        "launchd"
    }

    fn name(&self) -> &str {
        &self.hand.label
    }

    fn file(&self) -> &Path {
        &self.hand.plist
    }

    fn wanted(&self) -> &str {
        &self.text
    }

    fn differs(&self, found: &str) -> Vec<String> {
        let (Ok(wanted), Ok(found)) = (self.job.to_dictionary(), plist::from_bytes(found.as_bytes())) else {
            return vec!["it is not a property list".into()];
        };
        differences(&wanted, &found)
            .into_iter()
            .map(|difference| format!("{}: {}", difference.key, difference.why))
            .collect()
    }

    fn program_of(&self, found: &str) -> Option<PathBuf> {
        let job: Job = plist::from_bytes(found.as_bytes()).ok()?;
        let [program, verb, ..] = &job.program_arguments[..] else { return None };
        (verb == "serve").then(|| PathBuf::from(program))
    }

    fn program(&self) -> &Path {
        &self.program
    }

    fn seen(&self) -> Result<Seen, AgentError> {
        let printed = self.hand.print().map_err(|error| self.explain(&error))?;
        let other = self.misplaced();
        let misplaced = other.as_ref().map(|(other, _)| other.domain.of(other.uid));
        let Some(printed) = printed.or_else(|| other.map(|(_, printed)| printed)) else {
            return Ok(Seen { state: "not loaded".into(), ..Seen::default() });
        };
        Ok(Seen {
            loaded: true,
            misplaced,
            pid: printed.pid,
            state: printed.state.as_str().to_owned(),
            last_end: printed.last_end(),
            runs: printed.runs,
            program: printed.program,
        })
    }

    fn calls(&self, install: Install) -> Vec<String> {
        let calls = first(install).map_or_else(Vec::new, |step| Self::shown(&self.hand, RUNNING, step));
        let moved = if install == Install::Replace { self.calls_to_clear() } else { Vec::new() };
        moved.into_iter().chain(calls).collect()
    }

    fn calls_to_remove(&self) -> Vec<String> {
        let calls = Self::shown(&self.hand, Goal::Gone, Step::Bootout);
        self.calls_to_clear().into_iter().chain(calls).collect()
    }

    fn install(&self, install: Install, say: &mut dyn FnMut(&str)) -> Result<i32, AgentError> {
        if install == Install::Replace {
            self.clear_misplaced(say)?;
        }
        let pid = self.drive(RUNNING, first(install).unwrap_or(Step::Confirm), say)?;
        pid.ok_or_else(no_process)
    }

    fn remove(&self, say: &mut dyn FnMut(&str)) -> Result<(), AgentError> {
        self.clear_misplaced(say)?;
        self.drive(Goal::Gone, Step::Bootout, say)?;
        discard(&self.hand.plist)
    }

    fn restart(
        &self,
        before: Option<i32>,
        handed: Handed,
        say: &mut dyn FnMut(&str),
    ) -> Result<i32, AgentError> {
        let mut hand = self.hand.clone();
        let first = match handed {
            // Unload it and load it again: macOS 26 kills a new program in a job that was loaded with the old one.
            Handed::Holds => Step::Bootout,
            // It is ending by itself; starting the job skips launchd's throttle.
            Handed::Leaves { drain } => {
                hand.patience.start = hand.patience.start.saturating_add(drain);
                Step::Kickstart
            }
            // It hangs and is killed; its backends live on in their own process groups.
            Handed::No => Step::Restart,
        };
        let mut progress = |step: Step| say(words(step));
        let pid = hand.drive(Goal::Running { not: before }, first, &mut progress);
        pid.map_err(|error| self.explain(&error))?.ok_or_else(no_process)
    }

    fn unloads_to_restart(&self) -> bool {
        true
    }
}

fn no_process() -> AgentError {
    AgentError { what: "launchd names no process".into(), hint: "mlxctl agent status".into() }
}
