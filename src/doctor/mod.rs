//! What is wrong with this machine or this deployment, and what to do about it.
//!
//! A check is a pure function from what was observed to a [`Finding`]; [`observe`] is the only part that looks.
//! [`trials`] test the operating system itself.

pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod machine;
pub(crate) mod macos;
pub(crate) mod network;
pub(crate) mod observe;
pub(crate) mod python;
pub(crate) mod service;
pub(crate) mod trials;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Ok,
    /// It does not apply here, or could not be checked.
    Skip,
    /// It works, but not as well as it could, or not for long.
    Warn,
    Fail,
}

/// What a check found. Scripts rely on the ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Name of the check, such as `ports`.
    pub id: &'static str,
    pub state: State,
    /// What was seen, in one line.
    pub seen: String,
    /// What to do; a command if there is one.
    pub fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(id: &'static str, seen: impl Into<String>) -> Self {
        Self { id, state: State::Ok, seen: seen.into(), fix: None }
    }

    pub(crate) fn skip(id: &'static str, why: impl Into<String>) -> Self {
        Self { id, state: State::Skip, seen: why.into(), fix: None }
    }

    pub(crate) fn warn(id: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Warn, seen: seen.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn fail(id: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Fail, seen: seen.into(), fix: Some(fix.into()) }
    }
}
