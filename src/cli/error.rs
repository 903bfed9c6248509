//! Errors of commands: a message for people, an exit code for scripts.

use crate::terminal::shown;

/// The exit codes; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// The command line or the registry is not valid.
    Usage = 2,
    /// The supervisor, or the model, is not running.
    NotRunning = 3,
    UnknownModel = 4,
    /// Not now: memory, pressure, busy (`EX_TEMPFAIL` of sysexits.h).
    Refused = 75,
}

/// A failure: what, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    pub exit: Exit,
    /// What did not work, in one line.
    pub what: String,
    /// The reason; may span several lines (a table of terms, a list of problems).
    pub why: Option<String>,
    /// What to do about it; a command if there is one.
    pub hint: Option<String>,
}

impl CliError {
    /// An error with a message but no reason or hint.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: shown(&what.into()).into_owned(), why: None, hint: None }
    }

    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    pub(crate) fn why(mut self, why: impl ToString) -> Self {
        self.why = Some(shown(&why.to_string()).into_owned());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(shown(&hint.into()).into_owned());
        self
    }
}

/// The error for a log that cannot be read.
pub(crate) fn unreadable(error: std::io::Error) -> CliError {
    CliError::failed("cannot read the log").why(error)
}

/// The error for signal handlers that cannot be installed.
pub(crate) fn no_signal_handlers(error: std::io::Error) -> CliError {
    CliError::failed("cannot install signal handlers").why(error)
}

/// The innermost reason: "connection refused", not "error sending request"; `None`: the error has no source.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> Option<String> {
    std::iter::successors(error.source(), |error| error.source()).last().map(ToString::to_string)
}
