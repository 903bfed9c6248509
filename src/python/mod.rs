//! The Python side: interpreter, venv, packages, the built-in tiny model.
//!
//! Everything here blocks and is meant for commands; the supervisor only uses [`venv::existing`] and
//! [`tiny::existing`], which check a few files.

pub(crate) mod diagnose;
pub(crate) mod hub;
pub(crate) mod interpreter;
pub(crate) mod lock_file;
pub(crate) mod process;
pub(crate) mod profile;
pub(crate) mod pull;
pub(crate) mod requirement;
mod script;
pub(crate) mod tiny;
pub(crate) mod venv;
pub(crate) mod whole;
