//! The only interface to the operating system.
//!
//! [`Host`] has one implementation per OS, and a fake. "Unsupported" is a value, so that no caller needs a `cfg`.

pub(crate) mod fake;
pub(crate) mod posix;
pub(crate) mod socket;

#[cfg(any(target_os = "macos", test))]
mod darwin;
mod facts;
pub(crate) mod panics;
#[cfg(any(target_os = "macos", test))]
mod power;
#[cfg(any(target_os = "linux", test))]
mod procfs;
mod seam;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as native;

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
use macos as native;

use std::io;
use std::sync::Arc;

pub(crate) use seam::PortHolder;
pub use seam::{
    Exit, ExitWatch, Facts, Footprint, Host, Identity, Marked, MemoryReading, Power, Pressure, Priority,
    Signal, SleepHold,
};

use crate::clock::Moment;

/// The [`Host`] of this machine. Cheap: slow queries wait until they are needed.
pub fn system() -> Arc<dyn Host> {
    Arc::new(native::system())
}

/// [`Facts::boot_id`] without a [`Host`].
///
/// # Errors
/// The system's own, if it does not answer.
pub fn boot_id() -> io::Result<String> {
    native::boot_id()
}

/// Returns the allocator's free memory to the system, to be called after freeing megabytes. Takes up to some
/// milliseconds. [`Host::give_back`] returns more.
pub(crate) fn relieve() {
    native::relieve();
}

/// From now on this process keeps little memory that it does not use: the allocator returns large blocks to the system as
/// soon as they are freed, and little of the program around what runs is mapped.
pub(crate) fn keep_memory_small() {
    native::keep_memory_small();
}

/// [`Host::identify`] without a [`Host`].
///
/// # Errors
/// The system's own, if it does not answer.
pub fn identify(pid: i32) -> io::Result<Option<Identity>> {
    native::identify(pid)
}

/// The processes that listen on this TCP port, on any address, as far as this user may see them. Searches all of this
/// user's processes (Linux) or runs `lsof` (macOS), which takes a fraction of a second: only for a person who waits.
pub(crate) fn port_holders(port: u16) -> Vec<PortHolder> {
    native::port_holders(port)
}

/// [`Host::now`] without a [`Host`].
pub fn now() -> Moment {
    native::now()
}

/// Identifies a child that has not been waited for, so it still has its pid even if it has ended.
///
/// # Errors
/// `NotFound` if there is no such child; the system's own otherwise.
pub(crate) fn identify_child(pid: i32) -> io::Result<Identity> {
    native::identify_child(pid)
}
