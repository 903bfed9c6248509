//! The registry: the TOML file of models.
//!
//! Read in two steps: `raw` is what was written, [`Registry`] is what is valid. Every problem is reported at
//! once. Nothing past this module sees a value that was not checked.
//!
//! Every key, its type, its default and its meaning stand in `docs/registry.md`; a test holds the two together.

mod advice;
#[cfg(test)]
mod documented;
mod edit;
mod fits;
mod load;
mod lookup;
mod notes;
mod pin;
mod places;
mod pressure;
mod problem;
mod raw;
mod reader;
mod resolve;
mod types;

pub use advice::advice;
pub use edit::{Change, EditError, use_repo};
pub use fits::fits;
pub use load::DEMO;
pub use lookup::UnknownModel;
pub use pin::{MIN_MLX_LM, check_pin, is_too_old};
pub use places::dangling;
pub use places::{check_owners, check_paths};
pub use pressure::{PressureSettings, YieldAction};
pub use problem::{Complaint, Place, Problem, Problems, Written};
pub use types::*;
