//! What Linux and macOS have in common: signals to groups, preparation for an exec, the time.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, kill, killpg, sigprocmask};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::clock::Moment;
use crate::clock::hours::LocalTime;
use crate::host::seam::Signal;
use crate::units::Bytes;

impl Signal {
    pub(super) fn native(self) -> nix::sys::signal::Signal {
        match self {
            Self::Term => nix::sys::signal::Signal::SIGTERM,
            Self::Kill => nix::sys::signal::Signal::SIGKILL,
        }
    }
}

/// Signals a group, or a single process that does not lead one. Success also if there is none.
pub(super) fn send(pid: i32, leads_group: bool, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid);
    let sent = if leads_group { killpg(pid, signal.native()) } else { kill(pid, signal.native()) };
    match sent {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether this process group has members, including zombies.
pub(super) fn group_exists(group: i32) -> bool {
    killpg(Pid::from_raw(group), None) != Err(Errno::ESRCH)
}

/// The error for a pid that was reused.
pub(super) fn stranger(pid: i32) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("pid {pid} belongs to another process now"))
}

/// The error for a process that has ended.
pub(super) fn gone(pid: i32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is gone"))
}

/// Resets all signals to their defaults and unblocks them: Rust's runtime ignores SIGPIPE, and exec keeps ignored and
/// blocked signals.
#[expect(unsafe_code, reason = "sigaction has no safe wrapper, for a handler could be anything")]
pub(crate) fn reset_signals() -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, Signal, sigaction};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default action runs no code of this process.
        unsafe { sigaction(signal, &default) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Descriptors for connections, pidfds and files. launchd starts jobs with a soft limit of 256, and macOS allows at
/// most `OPEN_MAX` (10240).
const OPEN_FILES: u64 = 8192;

/// Prepares a process to run for weeks: exceeding a file size limit becomes an error of the write, like a full disk,
/// and the soft limit on descriptors is raised.
#[expect(unsafe_code, reason = "sigaction has no safe wrapper, for a handler could be anything")]
pub(crate) fn serve_long() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, Signal, sigaction};
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal runs no code of this process.
    unsafe { sigaction(Signal::SIGXFSZ, &ignore) }?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = OPEN_FILES.min(hard);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}

/// Checks that the peer of a Unix socket is the user `owner`.
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

/// Whether SIGHUP will mean that this process's terminal is gone: it has one, and was not started with nohup. Call it
/// before installing a handler.
#[expect(unsafe_code, reason = "nix's sigaction cannot ask without changing")]
pub(crate) fn ends_with_terminal() -> bool {
    // The controlling terminal, whatever stdin is (tty(4)).
    if std::fs::File::open("/dev/tty").is_err() {
        return false;
    }
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action it only writes the present one, for which there is room.
    let asked = unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: filled in if the call succeeded.
    asked != 0 || unsafe { now.assume_init() }.sa_sigaction != libc::SIG_IGN
}

/// Local time, "2026-02-08 11:00:00", in the zone of `TZ` or the system.
pub(crate) fn local_time(at: std::time::SystemTime) -> Option<String> {
    let tm = local(at)?;
    let (year, month, day) = (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
    Some(format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", tm.tm_hour, tm.tm_min, tm.tm_sec))
}

/// What an ordinary user can still write to the disk of `folder`, or of its nearest ancestor that exists.
pub(crate) fn free_space(folder: &Path) -> Option<Bytes> {
    let disk = folder.ancestors().find_map(|folder| nix::sys::statvfs::statvfs(folder).ok())?;
    // The widths differ between systems.
    let blocks = u64::try_from(i128::from(disk.blocks_available())).ok()?;
    let size = u64::try_from(i128::from(disk.fragment_size())).ok()?;
    Some(Bytes(blocks.saturating_mul(size)))
}

/// Reads a clock that always exists, for which clock_gettime(2) documents no error.
pub(super) fn clock(clock: ClockId) -> Moment {
    clock_gettime(clock).map_or(Moment::default(), |time| Moment(time.into()))
}

/// The local time of day, in the same zone.
pub(super) fn time_of_day() -> Option<LocalTime> {
    let tm = local(std::time::SystemTime::now())?;
    let part = |number: libc::c_int| u32::try_from(number).unwrap_or_default();
    Some(LocalTime::of(part(tm.tm_hour) * 3600 + part(tm.tm_min) * 60 + part(tm.tm_sec)))
}

/// Looks up the zone each time: `localtime_r` alone may keep using the one from when the process started.
#[expect(unsafe_code, reason = "localtime_r has no safe wrapper")]
fn local(at: std::time::SystemTime) -> Option<libc::tm> {
    unsafe extern "C" {
        fn tzset();
    }
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    let seconds = libc::time_t::try_from(since.as_secs()).ok()?;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: it reads the environment, which this process never changes while threads are running.
    unsafe { tzset() };
    // SAFETY: both pointers are valid, and the environment is as above.
    if unsafe { libc::localtime_r(&raw const seconds, parts.as_mut_ptr()) }.is_null() {
        return None;
    }
    // SAFETY: filled in, because the result is not null.
    Some(unsafe { parts.assume_init() })
}

/// Closes all file descriptors above stderr. Only for a process that is about to exec.
#[expect(unsafe_code, reason = "descriptors are closed behind the backs of whoever owns them")]
pub(crate) fn close_inherited() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a plain system call. Nothing uses the descriptors afterwards: the caller only execs.
        if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } == 0 {
            return;
        }
    }
    // Linux before 5.9, and macOS: the soft limit bounds the highest number.
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let end = limit.map_or(256, |(soft, _)| i32::try_from(soft.min(65_536)).unwrap_or(256));
    for fd in 3..end {
        // SAFETY: as above; for a number that is not open it returns EBADF.
        unsafe { libc::close(fd) };
    }
}

/// Adds to the niceness of the calling process. Lowering it needs privileges.
///
/// # Errors
/// `PermissionDenied` without them; the system's own otherwise.
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
