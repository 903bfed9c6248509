//! Memory: what a model takes, what a machine has, and whether the one fits into the other. Pure, except for [`files`],
//! which reads headers in a model's folder.

pub(crate) mod admission;
pub(crate) mod bounds;
pub(crate) mod budget;
pub(crate) mod cache;
mod checks;
mod choose;
mod divides;
pub(crate) mod elsewhere;
pub(crate) mod estimate;
mod figures;
pub(crate) mod files;
#[cfg(test)]
mod fixtures;
pub(crate) mod gpu;
pub(crate) mod group;
pub(crate) mod learn;
mod ledger;
pub(crate) mod platform;
pub(crate) mod pressure;
pub(crate) mod problem;
pub(crate) mod profile;
pub(crate) mod refusal;
pub(crate) mod remedy;
pub(crate) mod room;
pub(crate) mod shape;
pub(crate) mod split;
pub(crate) mod thumb;
pub(crate) mod upkeep;
pub(crate) mod weights;
mod working;

pub(crate) use admission::judge;
pub(crate) use bounds::Bounds;
pub(crate) use budget::{Budget, budget};
pub(crate) use divides::divides;
pub(crate) use estimate::ModelFiles;
pub(crate) use figures::{Estimate, Figure, Term};
pub(crate) use gpu::GpuLimit;
pub(crate) use ledger::{Grant, Ledger, Live};
pub(crate) use platform::Platform;
pub(crate) use problem::Problem;
pub use profile::Profile;
pub(crate) use refusal::Refusal;
pub(crate) use room::Room;
pub(crate) use shape::Shape;
