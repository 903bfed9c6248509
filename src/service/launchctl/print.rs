//! Reads the output of `launchctl print DOMAIN/LABEL`.
//!
//! According to launchctl(1) the output is not an interface, and nested blocks repeat the job's own keys
//! (`state = active` of an endpoint). So only lines indented by exactly one tab are read, and a missing key is
//! `None`, never an error.

use std::path::PathBuf;

/// What launchd is doing with the job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    Running,
    /// It has no process, and launchd waits for a reason to start it.
    #[default]
    NotRunning,
    /// It has no process yet: throttled, or its session does not exist.
    SpawnScheduled,
    /// A word that is not documented, verbatim.
    Other(String),
}

/// A loaded job, as far as launchctl reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Printed {
    pub state: State,
    pub pid: Option<i32>,
    /// How it last ended by itself; `None`: never, or unknown.
    pub last_exit: Option<LastExit>,
    /// The signal that last ended it, in launchd's words: `Killed: 9`.
    pub last_signal: Option<String>,
    /// The property list it was loaded from.
    pub path: Option<PathBuf>,
    pub program: Option<String>,
    /// How often it was started since it was loaded.
    pub runs: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastExit {
    pub code: i32,
    /// launchd's name for the code, if it has one: `EX_CONFIG`.
    pub name: Option<String>,
}

impl State {
    /// The state as launchctl prints it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Running => "running",
            Self::NotRunning => "not running",
            Self::SpawnScheduled => "spawn scheduled",
            Self::Other(word) => word,
        }
    }
}

impl Printed {
    /// Reads the output; what is not understood is left out.
    pub fn parse(output: &str) -> Self {
        let mut printed = Self::default();
        for line in output.lines() {
            let Some(line) = line.strip_prefix('\t').filter(|line| !line.starts_with(['\t', ' '])) else {
                continue;
            };
            let Some((key, value)) = line.split_once(" = ") else { continue };
            let value = value.trim_end();
            match key {
                "state" => printed.state = state(value),
                "pid" => printed.pid = value.parse().ok().filter(|pid| *pid > 0),
                "last exit code" => printed.last_exit = last_exit(value),
                "last terminating signal" => printed.last_signal = Some(value.to_owned()),
                "path" => printed.path = Some(PathBuf::from(value)),
                "program" => printed.program = Some(value.to_owned()),
                "runs" => printed.runs = value.parse().ok(),
                _ => {}
            }
        }
        printed
    }

    /// How it last ended, in one phrase: `exit 78 (EX_CONFIG)`, `Killed: 9`. `None`: it never did.
    pub fn last_end(&self) -> Option<String> {
        self.last_signal.clone().or_else(|| {
            self.last_exit.as_ref().map(|exit| match &exit.name {
                Some(name) => format!("exit {} ({name})", exit.code),
                None => format!("exit {}", exit.code),
            })
        })
    }
}

fn state(word: &str) -> State {
    match word {
        "running" => State::Running,
        "not running" => State::NotRunning,
        "spawn scheduled" => State::SpawnScheduled,
        other => State::Other(other.to_owned()),
    }
}

/// Reads `0`, `78: EX_CONFIG` or `(never exited)`.
fn last_exit(text: &str) -> Option<LastExit> {
    let (code, name) = text.split_once(": ").map_or((text, None), |(code, name)| (code, Some(name)));
    Some(LastExit { code: code.parse().ok()?, name: name.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_blocks_and_other_indents_are_ignored() {
        let text = "gui/501/x = {\n\tstate = running\n\tendpoints = {\n\t\t\"x\" = {\n\t\t\tstate = active\n\t\t}\n\t}\n\
                    \t\tpid = 1\n    pid = 2\npid = 3\n\tpid = 4711\n}\n";
        let printed = Printed::parse(text);
        assert_eq!((printed.state, printed.pid), (State::Running, Some(4711)));
    }

    #[test]
    fn missing_values_are_not_guessed() {
        assert_eq!(Printed::parse(""), Printed::default());
        let printed = Printed::parse("\tpid = many\n\tlast exit code = (never exited)\n\tstate = waiting\n");
        assert_eq!(printed.pid, None);
        assert_eq!(printed.last_end(), None);
        assert_eq!(printed.state, State::Other("waiting".into()));
    }
}
