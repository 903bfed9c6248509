//! The registry: the TOML file of models.
//!
//! Read in two steps: `raw` is what was written, [`Registry`] is what is valid. Every problem is reported at
//! once. Nothing past this module sees a value that was not checked.
//!
//! Every key, its type, its default and its meaning stand in `keys`; the tables of `docs/registry.md` are made from it.

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

pub use advice::advice;
pub use choices::*;
pub use edit::{Change, EditError, use_repo};
pub use fits::fits;
pub use keys::{
    Health, Limits, ModelMemory, Notify, Power, PressureSettings, Restart, Sampling, ServerOptions, Stop,
};
pub(crate) use keys::{Key, TABLES};
pub use load::DEMO;
pub use lookup::UnknownModel;
pub use pin::{MIN_MLX_LM, check_pin, is_too_old};
pub use places::dangling;
pub use places::{check_owners, check_paths};
pub use problem::{Complaint, Place, Problem, Problems, Written};
pub use types::*;
