//! One model on several machines, by MLX's own distributed engine.
//!
//! The backend of such a model is a conductor: our own binary as `mlxctl __conduct SPEC`, started by the same exec step
//! as Python, so that it is recorded, adopted and stopped like any backend. It runs `mlx.launch` with `mlxctl __rank`
//! on every rank, which starts the launcher there and keeps it tied to the group. See `docs/architecture.md`, "Ranks".

pub(crate) mod ask;
pub(crate) mod conduct;
pub(crate) mod frame;
pub(crate) mod host;
mod inputs;
mod link_server;
mod mlx_launch;
pub(crate) mod proof;
pub(crate) mod rank;
mod rank_python;
pub(crate) mod record;
pub(crate) mod silence;
pub(crate) mod streams;
pub(crate) mod verdict;
mod watched;

use std::ffi::OsString;

use crate::backend::CONDUCT;

/// The hidden first arguments, in addition to [`CONDUCT`].
pub(crate) const RANK: &str = "__rank";
const END_RANKS: &str = "__end_ranks";

/// Runs a hidden step if these are its arguments, the program's name first; returns its exit code.
pub fn hidden(arguments: impl Iterator<Item = OsString>) -> Option<u8> {
    let arguments: Vec<String> =
        arguments.skip(1).take(6).map(|argument| argument.to_string_lossy().into_owned()).collect();
    match arguments.first()?.as_str() {
        CONDUCT => Some(conduct::run(std::path::Path::new(arguments.get(1)?))),
        RANK => Some(rank::run()),
        END_RANKS => Some(record::end_ranks(arguments.get(1..)?)),
        _ => None,
    }
}
