//! Processes, through libproc (libproc.h, sys/proc_info.h).

use std::io;
use std::time::Duration;

use nix::errno::Errno;

use super::super::darwin;
use super::super::posix;
use super::sysctl;
use crate::host::seam::{Footprint, Identity, Marked, Priority};
use crate::units::Bytes;

/// The fields of `struct proc_bsdinfo` that are needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Info {
    pub parent: i32,
    pub group: i32,
    /// When it was forked, µs since the epoch; exec does not change it.
    pub started: u64,
    zombie: bool,
}

impl Info {
    pub(crate) fn alive(&self) -> bool {
        !self.zombie
    }
}

/// The process with this pid, even a zombie; `None` if there is none.
#[expect(unsafe_code, reason = "libproc has no safe wrapper")]
pub(crate) fn info(pid: i32) -> io::Result<Option<Info>> {
    // By xnu's bsd/kern/proc_info.c, zombies are found only with this argument.
    const ZOMBIES_TOO: u64 = 1;
    // SAFETY: all fields are numbers, so zeroes are valid.
    let mut bsd: libc::proc_bsdinfo = unsafe { std::mem::zeroed() };
    let size = libc::c_int::try_from(size_of::<libc::proc_bsdinfo>()).unwrap_or(0);
    // SAFETY: the struct has the given size.
    let got =
        unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, ZOMBIES_TOO, (&raw mut bsd).cast(), size) };
    if got != size {
        let error = Errno::last();
        return if darwin::nobody(error) { Ok(None) } else { Err(error.into()) };
    }
    Ok(Some(Info {
        parent: bsd.pbi_ppid.cast_signed(),
        group: bsd.pbi_pgid.cast_signed(),
        started: bsd.pbi_start_tvsec.saturating_mul(1_000_000).saturating_add(bsd.pbi_start_tvusec),
        zombie: bsd.pbi_status == libc::SZOMB,
    }))
}

/// [`info`] of a process whose pid must not have been reused.
pub(crate) fn info_of(who: Identity) -> io::Result<Info> {
    info(who.pid)?
        .filter(|info| info.started == who.started && info.alive())
        .ok_or_else(|| posix::gone(who.pid))
}

/// Which processes to list (`proc_listpids`, sys/proc_info.h); not in libc.
#[derive(Debug, Clone, Copy)]
enum Which {
    All,
    Group(i32),
    User(u32),
}

#[expect(unsafe_code, reason = "libproc has no safe wrapper")]
fn list(which: Which) -> Vec<i32> {
    let (kind, of) = match which {
        Which::All => (1, 0),
        Which::Group(group) => (2, group.cast_unsigned()),
        Which::User(user) => (4, user),
    };
    // A full list may be incomplete.
    let mut pids = vec![0i32; 256];
    loop {
        let size = libc::c_int::try_from(size_of_val(pids.as_slice())).unwrap_or(libc::c_int::MAX);
        // SAFETY: the buffer has the given size.
        let got = unsafe { libc::proc_listpids(kind, of, pids.as_mut_ptr().cast(), size) };
        let got = usize::try_from(got).unwrap_or(0) / size_of::<i32>();
        if got < pids.len() || pids.len() > 1 << 20 {
            pids.truncate(got);
            pids.retain(|&pid| pid > 0);
            return pids;
        }
        pids.resize(pids.len() * 4, 0);
    }
}

/// All members of the group that `leader` leads, including the leader.
pub(crate) fn family(leader: i32) -> Vec<i32> {
    let mut family = list(Which::Group(leader));
    if !family.contains(&leader) {
        // Between fork and setsid it is still in its parent's group.
        family.push(leader);
    }
    family
}

/// Whether the group that `who` led has members left.
pub(crate) fn survivors(who: Identity) -> bool {
    list(Which::Group(who.pid)).into_iter().any(|pid| {
        let member = matches!(info(pid), Ok(Some(info)) if info.alive() && info.started >= who.started);
        let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)));
        member && session.is_ok_and(|session| session.as_raw() == who.pid)
    })
}

#[expect(unsafe_code, reason = "libproc has no safe wrapper")]
fn usage(pid: i32) -> io::Result<libc::rusage_info_v4> {
    // SAFETY: all fields are numbers, so zeroes are valid.
    let mut usage: libc::rusage_info_v4 = unsafe { std::mem::zeroed() };
    // SAFETY: the struct belongs to this flavor; the declared pointer type is a quirk of libproc.h.
    if unsafe { libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V4, (&raw mut usage).cast()) } == 0 {
        return Ok(usage);
    }
    match Errno::last() {
        Errno::ESRCH => Err(posix::gone(pid)),
        error => Err(error.into()),
    }
}

/// `ri_phys_footprint`, which the system's own memory limits use: dirty, compressed and GPU memory. The peak is the
/// leader's.
pub(crate) fn footprint(who: Identity) -> io::Result<Footprint> {
    info_of(who)?;
    let leader = usage(who.pid)?;
    let others = family(who.pid).into_iter().filter(|&pid| pid != who.pid);
    // A member that has just ended holds nothing.
    let others: Bytes = others.filter_map(|pid| Some(Bytes(usage(pid).ok()?.ri_phys_footprint))).sum();
    let bytes = Bytes(leader.ri_phys_footprint) + others;
    Ok(Footprint { bytes, peak: Some(Bytes(leader.ri_lifetime_max_phys_footprint).max(bytes)), gpu: None })
}

/// User and system time, which the kernel reports in Mach's unit.
#[expect(unsafe_code, deprecated, reason = "one function is not worth the crate that libc recommends")]
pub(crate) fn cpu_time(who: Identity) -> io::Result<Duration> {
    info_of(who)?;
    let usage = usage(who.pid)?;
    let mut base = libc::mach_timebase_info { numer: 1, denom: 1 };
    // SAFETY: fills in our own struct.
    unsafe { libc::mach_timebase_info(&raw mut base) };
    let ticks = usage.ri_user_time.saturating_add(usage.ri_system_time);
    Ok(Duration::from_nanos(darwin::nanoseconds(ticks, base.numer, base.denom)))
}

/// What was read from disk for it, without cached data.
pub(crate) fn bytes_read(who: Identity) -> Option<Bytes> {
    info_of(who).ok()?;
    Some(Bytes(usage(who.pid).ok()?.ri_diskio_bytesread))
}

/// Darwin's background band: lowest CPU priority, throttled disk, efficiency cores. setpriority(2) allows only the
/// calling process; xnu (bsd/kern/kern_resource.c) also accepts others of the same user.
#[expect(unsafe_code, reason = "nix has no setpriority")]
pub(crate) fn set_priority(who: Identity, priority: Priority) -> io::Result<()> {
    info_of(who)?;
    let value = if priority == Priority::Background { libc::PRIO_DARWIN_BG } else { 0 };
    for pid in family(who.pid) {
        // SAFETY: no pointers.
        if unsafe { libc::setpriority(libc::PRIO_DARWIN_PROCESS, pid.cast_unsigned(), value) } == 0 {
            continue;
        }
        match Errno::last() {
            Errno::ESRCH => {}
            Errno::EINVAL => return Err(io::ErrorKind::Unsupported.into()),
            error => return Err(error.into()),
        }
    }
    Ok(())
}

pub(crate) fn running(names: &[String]) -> Vec<String> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut found = vec![false; names.len()];
    for pid in list(Which::All) {
        let mut buffer = [0u8; 64];
        #[expect(unsafe_code, reason = "libproc has no safe wrapper")]
        // SAFETY: the buffer has the given size.
        let length = unsafe { libc::proc_name(pid, buffer.as_mut_ptr().cast(), 64) };
        let name = usize::try_from(length).ok().and_then(|length| buffer.get(..length));
        let Some(kept) = name.and_then(|name| std::str::from_utf8(name).ok()) else { continue };
        for (name, found) in names.iter().zip(&mut found) {
            *found = *found || darwin::goes_by(name, kept);
        }
    }
    names.iter().zip(found).filter(|(_, found)| *found).map(|(name, _)| name.clone()).collect()
}

/// This user's processes whose arguments contain `marker`, except this one.
pub(crate) fn find_by_argument(marker: &str) -> Vec<Marked> {
    let own = nix::unistd::getpid().as_raw();
    let finder = memchr::memmem::Finder::new(marker);
    // Longest arguments and environment of a process (KERN_ARGMAX, 1 MiB by default).
    let size = sysctl::integer(c"kern.argmax").ok().and_then(|size| usize::try_from(size).ok());
    let mut buffer = vec![0; size.unwrap_or(1 << 20)];
    let mut found = Vec::new();
    for pid in list(Which::User(nix::unistd::geteuid().as_raw())) {
        let Ok(bytes) = sysctl::process_arguments(pid, &mut buffer) else { continue };
        if pid == own || !darwin::arguments(bytes).any(|argument| finder.find(argument).is_some()) {
            continue;
        }
        if let Ok(Some(info)) = info(pid)
            && info.alive()
        {
            let arguments = darwin::arguments(bytes);
            let arguments =
                arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
            let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)));
            found.push(Marked {
                who: Identity { pid, started: info.started },
                parent: info.parent,
                // 0 if it has just ended.
                session: session.map_or(0, nix::unistd::Pid::as_raw),
                arguments,
            });
        }
    }
    found
}
