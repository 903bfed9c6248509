//! The one seam to the operating system.
//!
//! [`Host`] has one implementation an OS and a fake. "Unsupported" is a value, so that no caller needs a `cfg`.

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

/// This machine. Cheap: what takes time is asked when it is first needed.
pub fn system() -> Arc<dyn Host> {
    Arc::new(native::system())
}

/// Tells one boot from the next; what [`Facts::boot_id`] says, without the rest.
///
/// # Errors
/// The system's own, if it does not answer.
pub fn boot_id() -> io::Result<String> {
    native::boot_id()
}

/// Gives back what the allocator keeps of what was freed: after megabytes, at once. See [`Host::give_back`] for the rest.
/// Takes up to some milliseconds where much was freed.
pub(crate) fn relieve() {
    native::relieve();
}

/// Has the allocator give large blocks back to the system when they are freed, for as long as this process lives.
pub(crate) fn keep_no_large_blocks() {
    native::keep_no_large_blocks();
}

/// Who has this pid now, see [`Host::identify`], for those who need nothing else.
///
/// # Errors
/// The system's own, if it does not answer.
pub fn identify(pid: i32) -> io::Result<Option<Identity>> {
    native::identify(pid)
}

/// Who listens on this TCP port, on whatever address; without those whom this user may not look at. Looks through all of
/// this user's processes (Linux), or runs `lsof` (macOS), which takes a part of a second: for a person who waits.
pub(crate) fn port_holders(port: u16) -> Vec<PortHolder> {
    native::port_holders(port)
}

/// The time on the clock that keeps running during sleep; what [`Host::now`] says, without the rest.
pub fn now() -> Moment {
    native::now()
}

/// Who a child is that nobody has waited for yet, so that it has its pid even if it has ended.
///
/// # Errors
/// `NotFound` if it is no such child; the system's own otherwise.
pub(crate) fn identify_child(pid: i32) -> io::Result<Identity> {
    native::identify_child(pid)
}
