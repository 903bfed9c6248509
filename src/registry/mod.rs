//! The registry: the TOML file of models.
//!
//! Read in two steps: `raw` is what was written, [`Registry`] is what is valid. All problems are reported at once. Code
//! outside this module never sees a value that was not checked.
//!
//! Every key, its type, default and meaning are in `keys`; the tables of `docs/registry.md` are generated from there.

mod advice;
mod choices;
#[cfg(test)]
mod documented;
mod edit;
mod fits;
mod keys;
mod load;
mod lookup;
mod notes;
mod pin;
mod places;
mod problem;
mod raw;
mod reader;
mod resolve;
mod types;

pub(crate) use advice::advice;
pub use choices::*;
pub(crate) use edit::{EditError, use_repo};
pub(crate) use fits::fits;
pub use keys::Limits;
pub(crate) use keys::{
    Health, Key, ModelMemory, Notify, Power, PressureSettings, Restart, Sampling, ServerOptions, Stop, TABLES,
};
pub(crate) use load::DEMO;
pub(crate) use lookup::UnknownModel;
pub(crate) use places::{check_owners, dangling};
pub use problem::Problems;
pub(crate) use problem::{Complaint, Written};
pub use types::*;
