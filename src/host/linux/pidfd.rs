//! Process file descriptors (pidfd_open(2)), which report the end of any process as an event.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::posix;
use super::process;
use crate::host::seam::{Exit, ExitWatch, Identity, Signal};

/// Opens a process, even a zombie; `None` if no process has this pid.
fn open(pid: i32) -> io::Result<Option<OwnedFd>> {
    #[expect(unsafe_code, reason = "neither libc nor nix wrap pidfd_open")]
    // SAFETY: a system call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd @ 0..) = i32::try_from(fd) else {
        let error = io::Error::last_os_error();
        return if process::is_gone(&error) { Ok(None) } else { Err(error) };
    };
    #[expect(unsafe_code, reason = "a raw descriptor becomes an owned one")]
    // SAFETY: the kernel has just made it, close-on-exec, and it has no other owner.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

pub(super) fn watch(who: Identity) -> io::Result<ExitWatch> {
    let fd = open(who.pid)?;
    // Checked after opening: the descriptor refers to whichever process had the pid then.
    let same = process::stat(who.pid)?.is_some_and(|stat| stat.started == who.started);
    let Some(fd) = fd.filter(|_| same) else {
        return Ok(Box::pin(std::future::ready(Exit::Unknown)));
    };
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "the promise that the descriptor stays open is ours")]
    // SAFETY: an owned descriptor, which always returns the same number and is open until dropped.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    Ok(Box::pin(async move {
        loop {
            let Ok(mut ready) = fd.readable().await else {
                // The runtime is being torn down: nothing will poll this again.
                return std::future::pending().await;
            };
            match reap(fd.get_ref()) {
                Some(exit) => return exit,
                None => ready.clear_ready(),
            }
        }
    }))
}

/// How it ended; `None` if it has not.
fn reap(fd: &OwnedFd) -> Option<Exit> {
    loop {
        return match waitid(Id::PIDFd(fd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal as i32)),
            Ok(_) => None,
            Err(Errno::EINTR) => continue,
            // Not our child, so the descriptor only says that it ended.
            Err(_) => Some(Exit::Unknown),
        };
    }
}

pub(super) fn signal(who: Identity, signal: Signal) -> io::Result<()> {
    let fd = open(who.pid)?;
    let stat = process::stat(who.pid)?;
    match (fd, stat) {
        (_, Some(stat)) if stat.started != who.started => Err(posix::stranger(who.pid)),
        (Some(fd), Some(stat)) if stat.alive() => send(&fd, who.pid, stat.group == who.pid, signal),
        _ if process::survivors(who) => posix::send(who.pid, true, signal),
        _ => Ok(()),
    }
}

/// Signals through the descriptor, so that the pid cannot be reused in between. Groups can be signalled that way since
/// Linux 6.9. A process that does not lead its group yet is about to, and is alone.
fn send(fd: &OwnedFd, pid: i32, leads_group: bool, signal: Signal) -> io::Result<()> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
    let flags = if leads_group { PIDFD_SIGNAL_PROCESS_GROUP } else { 0 };
    #[expect(unsafe_code, reason = "neither libc nor nix wrap pidfd_send_signal")]
    // SAFETY: the descriptor is open, and a null siginfo is what kill(2) sends.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal.native() as i32,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    match (sent, Errno::last()) {
        (0, _) | (_, Errno::ESRCH) => Ok(()),
        (_, Errno::EINVAL) => posix::send(pid, leads_group, signal),
        (_, error) => Err(error.into()),
    }
}
