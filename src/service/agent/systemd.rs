//! The agent as a systemd user unit.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Agent, AgentError, Handed, Install, Seen, discard};
use crate::registry;
use crate::service::systemd::{Error, Shown, Systemctl, program_in, render, unit_file, unit_name};

#[derive(Debug)]
pub(crate) struct SystemdAgent {
    hand: Systemctl,
    file: PathBuf,
    program: PathBuf,
    text: String,
    /// How long to wait for a process to appear.
    patience: Duration,
}

impl SystemdAgent {
    /// `agent` of the user whose home folder is `home`; `config_home` is `$XDG_CONFIG_HOME`.
    pub(crate) fn new(
        agent: &registry::Agent,
        program: &Path,
        config: &Path,
        home: &Path,
        config_home: Option<&Path>,
    ) -> Self {
        Self {
            hand: Systemctl { program: "systemctl".into(), unit: unit_name(agent) },
            file: unit_file(agent, config_home, home),
            program: program.to_owned(),
            text: render(agent, program, config),
            patience: Duration::from_secs(15),
        }
    }

    /// Calls `systemctl` instead of the one on the PATH.
    pub(crate) fn with_systemctl(mut self, systemctl: PathBuf) -> Self {
        self.hand.program = systemctl;
        self
    }

    fn call(&self, arguments: &[&str]) -> Result<String, AgentError> {
        self.hand.call(arguments).map_err(|error| explain(&error))
    }

    fn steps(&self, install: Install) -> Vec<[&str; 2]> {
        let unit = self.hand.unit.as_str();
        match install {
            Install::Nothing => vec![],
            Install::Start => vec![["start", unit]],
            Install::Load => vec![["enable", unit], ["start", unit]],
            Install::Replace => vec![["enable", unit], ["restart", unit]],
        }
    }

    /// Waits up to `patience` for a process other than `before`; returns its pid.
    fn confirm(&self, before: Option<i32>, patience: Duration) -> Result<i32, AgentError> {
        let started = Instant::now();
        loop {
            let shown = self.hand.show().map_err(|error| explain(&error))?;
            match shown.pid.filter(|pid| before != Some(*pid)) {
                Some(pid) => return Ok(pid),
                None if started.elapsed() < patience => std::thread::sleep(Duration::from_millis(100)),
                None => return Err(not_another(shown.pid, &shown.state, patience)),
            }
        }
    }
}

/// Why there is no other process; `pid`: that of the current one.
fn not_another(pid: Option<i32>, state: &str, patience: Duration) -> AgentError {
    match pid {
        Some(pid) => AgentError {
            what: format!(
                "the previous supervisor (pid {pid}) is still running after {}s",
                patience.as_secs()
            ),
            hint: "it is finishing requests in flight; see `mlxctl status`".into(),
        },
        None => AgentError {
            what: format!("the unit has no process (state: {state})"),
            hint: "check the log named in the unit, or `journalctl --user -e`".into(),
        },
    }
}

fn explain(error: &Error) -> AgentError {
    AgentError { what: error.to_string(), hint: error.hint().to_owned() }
}

impl Agent for SystemdAgent {
    fn manager(&self) -> &'static str {
        "systemd"
    }

    fn name(&self) -> &str {
        &self.hand.unit
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn wanted(&self) -> &str {
        &self.text
    }

    fn differs(&self, found: &str) -> Vec<String> {
        let lines: Vec<&str> = found.lines().collect();
        let missing =
            self.text.lines().filter(|line| !lines.contains(line)).map(|line| format!("without {line}"));
        let wanted: Vec<&str> = self.text.lines().collect();
        let extra = found.lines().filter(|line| !wanted.contains(line)).map(|line| format!("with {line}"));
        missing.chain(extra).collect()
    }

    fn program_of(&self, found: &str) -> Option<PathBuf> {
        found.lines().find_map(program_in).map(PathBuf::from)
    }

    fn program(&self) -> &Path {
        &self.program
    }

    fn seen(&self) -> Result<Seen, AgentError> {
        let Shown { loaded, pid, state, restarts, result, .. } =
            self.hand.show().map_err(|error| explain(&error))?;
        Ok(Seen {
            // systemd knows a unit as soon as its file exists; what counts is whether it was started.
            loaded: loaded && (pid.is_some() || !state.starts_with("inactive")),
            misplaced: None,
            pid,
            state,
            last_end: result.filter(|result| result != "success"),
            runs: restarts.map(|count| u64::from(count) + 1),
            program: None,
        })
    }

    fn calls(&self, install: Install) -> Vec<String> {
        let calls =
            self.steps(install).into_iter().map(|step| format!("systemctl --user {}", step.join(" ")));
        let reload = (install != Install::Nothing).then(|| "systemctl --user daemon-reload".to_owned());
        reload.into_iter().chain(calls).collect()
    }

    fn calls_to_remove(&self) -> Vec<String> {
        vec![
            format!("systemctl --user disable --now {}", self.hand.unit),
            "systemctl --user daemon-reload".into(),
        ]
    }

    fn install(&self, install: Install, say: &mut dyn FnMut(&str)) -> Result<i32, AgentError> {
        say("telling systemd");
        self.call(&["daemon-reload"])?;
        for step in self.steps(install) {
            self.call(&step)?;
        }
        self.confirm(None, self.patience)
    }

    fn remove(&self, say: &mut dyn FnMut(&str)) -> Result<(), AgentError> {
        say("asking the unit to end");
        let known = self.hand.show().map_err(|error| explain(&error))?.loaded;
        if known {
            self.call(&["disable", "--now", &self.hand.unit])?;
        }
        discard(&self.file)?;
        self.call(&["daemon-reload"]).map(drop)
    }

    fn restart(
        &self,
        before: Option<i32>,
        handed: Handed,
        say: &mut dyn FnMut(&str),
    ) -> Result<i32, AgentError> {
        if handed == Handed::No {
            // Only the supervisor, and with SIGKILL: SIGTERM would ask it to end its backends.
            say("killing the supervisor");
            self.call(&["kill", "--kill-who=main", "--signal=SIGKILL", &self.hand.unit])?;
        }
        say("waiting for its process");
        let drain = if let Handed::Leaves { drain } = handed { drain } else { Duration::ZERO };
        self.confirm(before, self.patience.saturating_add(drain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_that_does_not_end_is_not_reported_as_a_missing_process() {
        let patience = Duration::from_secs(45);
        assert!(not_another(Some(7), "active", patience).what.contains("(pid 7) is still running after 45s"));
        assert!(not_another(None, "failed", patience).what.contains("no process (state: failed)"));
    }
}
