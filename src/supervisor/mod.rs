//! The one loop that owns all models, its driver, its journal, adoption.

pub mod absent;
mod admit;
mod adopt;
mod asks;
mod awake;
mod changes;
mod driver;
mod exits;
mod files;
mod forgotten;
mod give_way;
mod handle;
mod hours;
mod housekeeping;
mod journal;
mod keep;
mod keeper;
mod kept;
mod learned;
mod leave;
mod leftovers;
mod lock;
mod others;
mod panics;
mod plan;
mod power;
mod reload;
mod rest;
mod router;
mod run;
mod slot;
mod tell;
mod used;
mod view;

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod forgotten_tests;
#[cfg(test)]
mod give_way_tests;
#[cfg(test)]
mod hours_tests;
#[cfg(test)]
mod reasons_tests;

pub use admit::missing;
pub use handle::Handle;
pub use journal::Journal;
pub use leftovers::{Leftovers, running};
pub use lock::LockError;
pub use run::{Options, StartError, Supervisor, on_signals};
pub use view::host_status;

use std::path::Path;

use crate::registry::Registry;

/// The registry on disk, or why it is none.
pub(crate) fn read_registry(config: &Path) -> Result<Box<Registry>, String> {
    Registry::load(config).map(Box::new).map_err(|problems| problems.plain())
}
