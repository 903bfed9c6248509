//! What is wrong with this machine or this deployment, and what to do about it.
//!
//! A check is a pure function from what was observed to a [`Finding`]; [`observe`] is the only part that looks.
//! [`trials`] try out the operating system itself.

pub mod cluster;
pub mod disk;
pub mod machine;
pub mod macos;
pub mod network;
pub mod observe;
pub mod python;
pub mod service;
pub mod trials;

use serde::Serialize;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
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
pub struct Finding {
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
    #[must_use]
    pub fn ok(id: &'static str, seen: impl Into<String>) -> Self {
        Self { id, state: State::Ok, seen: seen.into(), fix: None }
    }

    /// It does not apply, and why.
    #[must_use]
    pub fn skip(id: &'static str, why: impl Into<String>) -> Self {
        Self { id, state: State::Skip, seen: why.into(), fix: None }
    }

    /// Worth knowing.
    #[must_use]
    pub fn warn(id: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Warn, seen: seen.into(), fix: Some(fix.into()) }
    }

    /// In the way.
    #[must_use]
    pub fn fail(id: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Fail, seen: seen.into(), fix: Some(fix.into()) }
    }
}
