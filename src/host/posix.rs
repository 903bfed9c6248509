//! What Linux and macOS do alike: signals to a group, and what a process does to itself before it becomes another.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, kill, killpg, sigprocmask};
use nix::unistd::Pid;

use crate::clock::hours::LocalTime;
use crate::host::seam::Signal;

impl Signal {
    /// The system's number of it.
    pub(super) fn native(self) -> nix::sys::signal::Signal {
        match self {
            Self::Term => nix::sys::signal::Signal::SIGTERM,
            Self::Kill => nix::sys::signal::Signal::SIGKILL,
        }
    }
}

/// Signals a group, or one process that does not lead one. Nobody left is success.
pub(super) fn send(pid: i32, leads_group: bool, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid);
    let sent = if leads_group { killpg(pid, signal.native()) } else { kill(pid, signal.native()) };
    match sent {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a group of this number has members, zombies among them.
pub(super) fn group_exists(group: i32) -> bool {
    killpg(Pid::from_raw(group), None) != Err(Errno::ESRCH)
}

/// What to answer when a recorded pid belongs to someone else now.
pub(super) fn stranger(pid: i32) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("pid {pid} belongs to another process now"))
}

/// What to answer when a process is gone.
pub(super) fn gone(pid: i32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is gone"))
}

/// Every signal does what it does by default again, and none is blocked. Rust's own runtime ignores SIGPIPE, and
/// what is ignored or blocked is inherited through exec.
#[expect(unsafe_code, reason = "sigaction has no safe wrapper, for a handler could be anything")]
pub(crate) fn reset_signals() -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, Signal, sigaction};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default action runs no code of this process, so nothing it could do is unsafe.
        unsafe { sigaction(signal, &default) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Descriptors for connections, pidfds and files; launchd starts jobs with a soft limit of 256, and macOS allows no
/// more than `OPEN_MAX` (10240).
const OPEN_FILES: u64 = 8192;

/// What a process does that shall live for weeks: a limit on the size of files is an error of a write, as a full disk
/// is, and no reason to die; and descriptors are not short before they have to be.
#[expect(unsafe_code, reason = "sigaction has no safe wrapper, for a handler could be anything")]
pub(crate) fn serve_long() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, Signal, sigaction};
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: to ignore a signal runs no code of this process.
    unsafe { sigaction(Signal::SIGXFSZ, &ignore) }?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = OPEN_FILES.min(hard);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}

/// Checks that `owner` is at the other end of a Unix socket.
///
/// # Errors
/// `PermissionDenied` if it is another user; the system's own otherwise.
pub(crate) fn peer_is(owner: u32, stream: &std::os::unix::net::UnixStream) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    let peer = {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
        nix::unistd::Uid::from_raw(getsockopt(stream, PeerCredentials)?.uid())
    };
    #[cfg(not(target_os = "linux"))]
    let peer = nix::unistd::getpeereid(stream)?.0;
    if peer.as_raw() == owner {
        return Ok(());
    }
    let why = format!("user {peer} listens there, and not user {owner}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Whether SIGHUP means that this process's terminal is gone: it has one, and was not told (nohup) to outlive it. To be
/// asked before a handler is installed.
#[expect(unsafe_code, reason = "nix's sigaction cannot ask without changing")]
pub(crate) fn ends_with_terminal() -> bool {
    // The controlling terminal, whatever stdin is (tty(4)).
    if std::fs::File::open("/dev/tty").is_err() {
        return false;
    }
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action it only fills in the present one, for which there is room.
    let asked = unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: filled in, where the call succeeded.
    asked != 0 || unsafe { now.assume_init() }.sa_sigaction != libc::SIG_IGN
}

/// Wall time as this machine's people read it: "2026-02-08 11:00:00", in the zone of `TZ` or the system.
pub(crate) fn local_time(at: std::time::SystemTime) -> Option<String> {
    let tm = local(at)?;
    let (year, month, day) = (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
    Some(format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", tm.tm_hour, tm.tm_min, tm.tm_sec))
}

/// What a clock on the wall shows now, in the same zone.
pub(super) fn time_of_day() -> Option<LocalTime> {
    let tm = local(std::time::SystemTime::now())?;
    let part = |number: libc::c_int| u32::try_from(number).unwrap_or_default();
    Some(LocalTime::of(part(tm.tm_hour) * 3600 + part(tm.tm_min) * 60 + part(tm.tm_sec)))
}

/// The zone is looked up anew each time, for `localtime_r` alone may go on with the one that the process began with.
#[expect(unsafe_code, reason = "localtime_r has no safe wrapper")]
fn local(at: std::time::SystemTime) -> Option<libc::tm> {
    unsafe extern "C" {
        fn tzset();
    }
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    let seconds = libc::time_t::try_from(since.as_secs()).ok()?;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: nothing of this process changes the environment, which it reads, while it runs.
    unsafe { tzset() };
    // SAFETY: both pointers are valid, and the environment is as above.
    if unsafe { libc::localtime_r(&raw const seconds, parts.as_mut_ptr()) }.is_null() {
        return None;
    }
    // SAFETY: it is filled in where the answer is not null.
    Some(unsafe { parts.assume_init() })
}

/// Closes every file descriptor above stderr. Only for a process that is about to become another one.
#[expect(unsafe_code, reason = "descriptors are closed behind the backs of whoever owns them")]
pub(crate) fn close_inherited() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a plain system call. What it closes is not used again: the caller only execs.
        if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } == 0 {
            return;
        }
    }
    // Linux before 5.9, and macOS: there the highest number is bound by the soft limit.
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let end = limit.map_or(256, |(soft, _)| i32::try_from(soft.min(65_536)).unwrap_or(256));
    for fd in 3..end {
        // SAFETY: as above; a number that is not open is answered with EBADF.
        unsafe { libc::close(fd) };
    }
}

/// Adds to the niceness of the calling process; below what it has needs privileges.
///
/// # Errors
/// `PermissionDenied` for that; the system's own otherwise.
#[expect(unsafe_code, reason = "nix has no setpriority")]
pub(crate) fn add_nice(add: i8) -> io::Result<()> {
    if add == 0 {
        return Ok(());
    }
    Errno::clear();
    // SAFETY: no pointers; 0 is the calling process. −1 is a valid answer, which is why errno was cleared.
    let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if now == -1 && Errno::last_raw() != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no pointers; the system bounds the value itself.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, now + i32::from(add)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_at_the_other_end_is_taken() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let me = nix::unistd::getuid().as_raw();
        peer_is(me, &one).unwrap();
        let refused = peer_is(me + 1, &one).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains(&format!("user {me} listens there")), "{refused}");
    }
}
