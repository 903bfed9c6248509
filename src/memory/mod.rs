//! Memory: what a model takes, what a machine has, whether the one fits into the other. Pure, but for [`files`],
//! which reads the headers of a model's folder.

pub mod admission;
pub mod bounds;
pub mod budget;
pub mod cache;
mod checks;
mod choose;
mod divides;
pub mod elsewhere;
pub mod estimate;
mod figures;
pub mod files;
#[cfg(test)]
mod fixtures;
pub mod gpu;
pub mod group;
pub mod learn;
mod ledger;
pub mod platform;
pub mod pressure;
pub mod problem;
pub mod profile;
pub mod refusal;
pub mod remedy;
pub mod room;
pub mod shape;
pub mod split;
pub mod thumb;
pub mod upkeep;
pub mod weights;
mod working;

pub use admission::judge;
pub use bounds::Bounds;
pub use budget::{Budget, budget};
pub use choose::bounds;
pub use divides::divides;
pub use estimate::{ModelFiles, estimate};
pub use figures::{Estimate, Figure, Term};
pub use gpu::{GpuLimit, LimitSource};
pub use learn::Learned;
pub use ledger::{Grant, Ledger, Live};
pub use platform::Platform;
pub use problem::Problem;
pub use profile::Profile;
pub use refusal::Refusal;
pub use room::Room;
pub use shape::Shape;
