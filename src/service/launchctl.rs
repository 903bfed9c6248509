//! launchctl: what it prints ([`mod@print`]), what to do about it ([`procedure`]), and the code that calls it.

pub(crate) mod print;
pub(crate) mod procedure;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use print::Printed;
use procedure::{Action, Failure, Goal, Patience, Reply, Step, next};

/// Which of a user's domains a job is in (launchctl(1)). They are separate: the same label may be loaded in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// That of a login at the Mac's own screen, where the agent belongs.
    Gui,
    /// The user's domain without a screen, from the first login of any kind (SSH too) until the machine shuts down.
    User,
}

impl Domain {
    /// The domain as launchctl names it: `gui/501`.
    pub fn of(self, uid: u32) -> String {
        match self {
            Self::Gui => format!("gui/{uid}"),
            Self::User => format!("user/{uid}"),
        }
    }
}

/// A job as launchctl names it, and how to call launchctl.
#[derive(Debug, Clone)]
pub struct Launchctl {
    /// The program: `/bin/launchctl`, or a stand-in that behaves as documented.
    pub program: PathBuf,
    pub uid: u32,
    /// Where the job is or should be.
    pub domain: Domain,
    pub label: String,
    pub plist: PathBuf,
    pub patience: Patience,
    /// Pause before a call is repeated.
    pub pause: Duration,
}

/// Why launchctl did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be called at all.
    #[error("cannot run {}: {source}", .program.display())]
    Call { program: PathBuf, source: io::Error },
    #[error(transparent)]
    Refused(#[from] Failure),
}

impl Launchctl {
    /// The system's launchctl, for the job `label` of the user `uid`.
    pub fn new(uid: u32, label: &str, plist: &Path, exit_timeout: Duration) -> Self {
        Self {
            program: PathBuf::from("/bin/launchctl"),
            uid,
            domain: Domain::Gui,
            label: label.to_owned(),
            plist: plist.to_owned(),
            patience: Patience::new(exit_timeout),
            pause: Duration::from_millis(500),
        }
    }

    pub fn arguments(&self, step: Step) -> Vec<String> {
        let domain = self.domain.of(self.uid);
        let service = format!("{domain}/{}", self.label);
        let verb = step.verb().to_owned();
        match step {
            Step::Bootstrap => vec![verb, domain, self.plist.to_string_lossy().into_owned()],
            Step::Restart => vec![verb, "-k".into(), service],
            _ => vec![verb, service],
        }
    }

    /// The same job in the other one of its user's domains.
    pub fn elsewhere(&self) -> Self {
        let domain = match self.domain {
            Domain::Gui => Domain::User,
            Domain::User => Domain::Gui,
        };
        Self { domain, ..self.clone() }
    }

    /// Goes from `first` to `goal` and calls `progress` with every step; returns the job's pid.
    ///
    /// # Errors
    /// Launchctl is missing, or one of the documented refusals lasted longer than the patience.
    pub fn drive(
        &self,
        goal: Goal,
        first: Step,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Option<i32>, Error> {
        // Counted from the first call of each step, so that a cycle (119, enable, 119) ends, too.
        let mut since: HashMap<Step, Instant> = HashMap::new();
        let (mut step, mut entered, mut patience) = (first, None, self.patience);
        loop {
            if entered != Some(step) {
                progress(step);
                entered = Some(step);
                if step == Step::Unpin {
                    // Only once; from here on it is a start like any other.
                    patience.unpin = false;
                    since.clear();
                }
            }
            let started = *since.entry(step).or_insert_with(Instant::now);
            let reply = self.call(&self.arguments(step))?;
            match next(goal, step, &reply, started.elapsed(), patience) {
                Action::Run(following) => step = following,
                Action::Wait(following) => {
                    std::thread::sleep(self.pause);
                    step = following;
                }
                Action::Done(pid) => return Ok(pid),
                Action::Fail(failure) => return Err(failure.into()),
            }
        }
    }

    /// The job as launchd reports it; `None`: there is none of this name.
    ///
    /// # Errors
    /// Launchctl is missing or exits with an undocumented code.
    pub fn print(&self) -> Result<Option<Printed>, Error> {
        let reply = self.call(&self.arguments(Step::Confirm))?;
        match reply.code {
            0 => Ok(Some(Printed::parse(&reply.output))),
            3 | 112 | 113 => Ok(None),
            code => {
                Err(Failure::Unknown { verb: "print", code, error: reply.error.trim().to_owned() }.into())
            }
        }
    }

    /// The kind of session this process is in; `Aqua` is a GUI session. `None`: launchctl does not say.
    pub fn session(&self) -> Option<String> {
        let reply = self.call(&["managername".into()]).ok()?;
        Some(reply.output.trim().to_owned()).filter(|name| reply.code == 0 && !name.is_empty())
    }

    fn call(&self, arguments: &[String]) -> Result<Reply, Error> {
        let output = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Call { program: self.program.clone(), source })?;
        Ok(Reply {
            // Ended by a signal: there is no exit code.
            code: output.status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
