//! The Python side: interpreter, venv, packages, the built-in tiny model.
//!
//! Everything here blocks and is meant for commands; the supervisor only uses [`venv::existing`] and
//! [`tiny::existing`], which look at a few files.

pub mod diagnose;
pub mod hub;
pub mod interpreter;
pub mod lock_file;
pub(crate) mod process;
pub mod pull;
pub mod requirement;
pub mod tiny;
pub mod venv;
pub mod whole;
