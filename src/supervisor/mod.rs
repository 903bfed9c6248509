//! The one loop that owns all models, and its four parts.

mod answers;
mod capacity;
mod driver;
mod handle;
mod inbox;
mod records;
mod run;
mod runs;
mod signals;

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod giving_way_tests;
#[cfg(test)]
mod hours_tests;
#[cfg(test)]
mod idle_tests;
#[cfg(test)]
mod trim_tests;

pub(crate) use answers::{host_status, planned_status};
pub(crate) use capacity::missing;
pub use handle::Handle;
pub use records::Journal;
pub(crate) use records::LockError;
pub(crate) use run::StartError;
pub use run::{Options, Supervisor};
pub(crate) use runs::{Orphans, running};
pub(crate) use signals::on_signals;

use std::path::Path;

use crate::registry::Registry;

/// Reads the registry on disk; the error is plain text with all its problems.
pub(crate) fn read_registry(config: &Path) -> Result<Box<Registry>, String> {
    Registry::load(config).map(Box::new).map_err(|problems| problems.plain())
}
