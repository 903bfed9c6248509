//! Processes, from `/proc`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;

use super::super::posix;
use super::super::procfs::{self, Stat};
use crate::host::seam::{Footprint, Identity, Marked};
use crate::units::Bytes;

/// Reads a file in `/proc`; most fit into one read.
pub(super) fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(4096);
    // `take` keeps the standard library from querying the size, two system calls per file for what is always 0.
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    // A process can have any name, UTF-8 or not.
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The process with this pid, even a zombie; `None` if there is none.
pub(super) fn stat(pid: i32) -> io::Result<Option<Stat>> {
    match read(&format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(procfs::stat(&text)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether reading `/proc/PID` failed because the process has ended.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// [`stat`] of a process whose pid must not have been reused.
pub(super) fn stat_of(who: Identity) -> io::Result<Stat> {
    stat(who.pid)?
        .filter(|stat| stat.started == who.started && stat.alive())
        .ok_or_else(|| posix::gone(who.pid))
}

/// All pids. Takes a few microseconds, unlike reading each process.
pub(super) fn pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The leader and its descendants in the same group. Descendants whose parent has ended are missing: finding them would
/// mean reading all of `/proc` each time.
pub(super) fn family(leader: i32) -> Vec<i32> {
    let mut family = vec![leader];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        next += 1;
        // Children are listed under the thread that forked them, which in Python can be any.
        for thread in threads(parent) {
            let Ok(children) = read(&format!("/proc/{parent}/task/{thread}/children")) else { continue };
            let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
            family.extend(children.filter(|&pid| matches!(stat(pid), Ok(Some(s)) if s.group == leader)));
        }
    }
    family
}

pub(super) fn threads(pid: i32) -> impl Iterator<Item = i32> {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Whether the group that `who` led has other members left. Reads all of `/proc`.
pub(super) fn survivors(who: Identity) -> bool {
    pids().any(|pid| {
        matches!(stat(pid), Ok(Some(s)) if s.alive() && s.group == who.pid && s.session == who.pid && s.started >= who.started)
    })
}

/// Anonymous, shared and swapped memory of the family. The peak is the leader's alone, because the kernel keeps no
/// other, and includes file pages.
///
/// The proportional set size (`smaps_rollup`) would count shared memory once, but the kernel walks every page table for
/// it: 4.5 ms per GB in 4 KiB pages as measured, while this takes microseconds.
pub(super) fn footprint(who: Identity) -> io::Result<Footprint> {
    stat_of(who)?;
    let mut sum = Bytes::ZERO;
    let mut peak = None;
    for pid in family(who.pid) {
        let status = match read(&format!("/proc/{pid}/status")) {
            Ok(status) => status,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        sum += procfs::footprint(&status).unwrap_or_default();
        if pid == who.pid {
            peak = procfs::labelled(&status, "VmHWM");
        }
    }
    Ok(Footprint { bytes: sum, peak: peak.map(|peak| peak.max(sum)), gpu: None })
}

/// What the process requested by reads, or what was fetched from disk for it, whichever is more: mapped files count
/// only in the latter, cached ones only in the former.
pub(super) fn bytes_read(who: Identity) -> Option<Bytes> {
    stat_of(who).ok()?;
    let io = read(&format!("/proc/{}/io", who.pid)).ok()?;
    Some(procfs::labelled(&io, "rchar")?.max(procfs::labelled(&io, "read_bytes")?))
}

/// A process's name, at most 16 bytes, in a single read, because all processes are read.
fn comm(pid: i32) -> io::Result<String> {
    let mut bytes = [0; 64];
    let length = File::open(format!("/proc/{pid}/comm"))?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

pub(super) fn running(names: &[String]) -> Vec<String> {
    let mut found = vec![false; names.len()];
    if names.is_empty() {
        return Vec::new();
    }
    for pid in pids() {
        let Ok(comm) = comm(pid) else { continue };
        let executable = || {
            let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            Some(path.file_name()?.to_str()?.to_owned())
        };
        for (name, found) in names.iter().zip(&mut found) {
            *found = *found || procfs::goes_by(name, &comm, executable);
        }
    }
    names.iter().zip(found).filter(|(_, found)| *found).map(|(name, _)| name.clone()).collect()
}

/// This user's processes whose arguments contain `marker`, except this one.
pub(super) fn find_by_argument(marker: &str) -> Vec<Marked> {
    let (user, own) = (nix::unistd::geteuid().as_raw(), nix::unistd::getpid().as_raw());
    let finder = memchr::memmem::Finder::new(marker);
    let look = |pid: i32| {
        let folder = std::fs::metadata(format!("/proc/{pid}")).ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        if folder.uid() != user || finder.find(&line).is_none() {
            return None;
        }
        let stat = stat(pid).ok()??;
        let arguments = line.strip_suffix(&[0]).unwrap_or(&line).split(|byte| *byte == 0);
        let arguments = arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
        let who = Identity { pid, started: stat.started };
        stat.alive().then_some(Marked { who, parent: stat.parent, session: stat.session, arguments })
    };
    pids().filter(|&pid| pid != own).filter_map(look).collect()
}
