//! What is wrong with this machine or this deployment, and what to do about it.
//!
//! A check is a pure function from what was observed to a [`Finding`]; [`observe`] is the only part that looks.
//! [`trials`] try out the operating system itself.

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

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// It does not apply here, or could not be looked at.
    Skip,
    /// It works, but not as well as it could, or not for long.
    Warn,
    /// It does not work.
    Fail,
}

/// What a check found. The ids are promises to scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Of the check: `plist`.
    pub id: &'static str,
    pub state: State,
    /// What was seen, in one line.
    pub seen: String,
    /// What to do, a command where there is one.
    pub fix: Option<String>,
}

impl Finding {
    /// As it should be.
    pub(crate) fn ok(id: &'static str, seen: impl Into<String>) -> Self {
        Self { id, state: State::Ok, seen: seen.into(), fix: None }
    }

    /// It does not apply, and why.
    pub(crate) fn skip(id: &'static str, why: impl Into<String>) -> Self {
        Self { id, state: State::Skip, seen: why.into(), fix: None }
    }

    /// Worth knowing.
    pub(crate) fn warn(id: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Warn, seen: seen.into(), fix: Some(fix.into()) }
    }

    /// In the way.
    pub(crate) fn fail(id: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Fail, seen: seen.into(), fix: Some(fix.into()) }
    }
}
