//! Scheduling classes that can be lowered and raised again without privileges.

use std::io;

use nix::sys::resource::{Resource, getrlimit};

use super::process;
use crate::host::seam::{Identity, Priority};

/// Applies to every thread of the family. Niceness is left alone: it would have to be remembered, and only root may
/// lower it again.
///
/// Two mechanisms, because either may have no effect: the session's share if the kernel groups by session (sched(7),
/// "The autogroup feature"; may be raised and lowered freely), and the `SCHED_IDLE` policy within a group (only used if
/// it can be undone: sched(7), "SCHED_IDLE").
pub(super) fn set(who: Identity, priority: Priority) -> io::Result<()> {
    let stat = process::stat_of(who)?;
    let background = priority == Priority::Background;
    let grouped = std::fs::write(format!("/proc/{}/autogroup", who.pid), if background { "19" } else { "0" });
    let policy = if background && !may_return(stat.nice) {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this user could not undo a lower priority (RLIMIT_NICE, see setrlimit(2))",
        ))
    } else {
        let policy = if background { libc::SCHED_IDLE } else { libc::SCHED_OTHER };
        process::family(who.pid)
            .into_iter()
            .flat_map(process::threads)
            .try_for_each(|thread| set_policy(thread, policy))
    };
    if grouped.is_ok() { Ok(()) } else { policy }
}

/// Whether this user may undo `SCHED_IDLE`: Linux requires that the user could set the thread's niceness.
fn may_return(nice: i32) -> bool {
    let needed = u64::try_from(20 - nice).unwrap_or(0);
    nix::unistd::geteuid().is_root() || getrlimit(Resource::RLIMIT_NICE).is_ok_and(|(soft, _)| soft >= needed)
}

#[expect(unsafe_code, reason = "nix has no sched_setscheduler")]
fn set_policy(thread: i32, policy: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call.
    if unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if process::is_gone(&error) { Ok(()) } else { Err(error) }
}
