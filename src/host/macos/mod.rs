//! The [`Host`] of macOS, which has not run on a Mac yet: docs/architecture.md, "Not seen on a Mac".

mod memory;
mod ports;
mod process;
mod sysctl;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::ClockId;

use super::{facts, posix, power};
use crate::clock::Moment;
use crate::clock::hours::LocalTime;
use crate::host::seam::{
    ExitWatch, Facts, Footprint, Host, Identity, Marked, MemoryReading, Power, Priority, Signal, SleepHold,
};
use crate::units::Bytes;

#[derive(Debug)]
pub(crate) struct System {
    facts: OnceLock<Facts>,
    memory: io::Result<memory::Memory>,
}

pub(crate) fn system() -> System {
    System { facts: OnceLock::new(), memory: memory::Memory::new() }
}

pub(crate) fn relieve() {
    memory::relieve();
}

/// Not needed: large blocks have a zone of their own here, which [`relieve`] empties, and pages of a file count for nobody.
pub(crate) fn keep_memory_small() {}

pub(crate) fn boot_id() -> io::Result<String> {
    sysctl::text(c"kern.bootsessionuuid")
}

pub(crate) fn now() -> Moment {
    // mach_continuous_time(3) in nanoseconds, as CLOCK_UPTIME_RAW is mach_absolute_time(3): one counter, read twice.
    posix::clock(ClockId::from_raw(libc::CLOCK_MONOTONIC_RAW))
}

pub(crate) fn port_holders(port: u16) -> Vec<crate::host::seam::PortHolder> {
    ports::holders(port)
}

pub(crate) fn identify(pid: i32) -> io::Result<Option<Identity>> {
    let info = process::info(pid)?.filter(process::Info::alive);
    Ok(info.map(|info| Identity { pid, started: info.started }))
}

pub(crate) fn identify_child(pid: i32) -> io::Result<Identity> {
    let info = process::info(pid)?.ok_or_else(|| posix::gone(pid))?;
    Ok(Identity { pid, started: info.started })
}

impl System {
    fn machine(&self) -> io::Result<&memory::Memory> {
        self.memory.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }
}

impl Host for System {
    fn now(&self) -> Moment {
        now()
    }

    fn awake(&self) -> Moment {
        posix::clock(ClockId::from_raw(libc::CLOCK_UPTIME_RAW))
    }

    fn local_time(&self) -> Option<LocalTime> {
        posix::time_of_day()
    }

    fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| {
            let os = format!("macOS {}", sysctl::text(c"kern.osproductversion").unwrap_or_default());
            let total = self.machine().map_or(Bytes::ZERO, |memory| memory.total);
            facts::collect(os.trim_end().to_owned(), total, boot_id().unwrap_or_default())
        })
    }

    fn memory(&self) -> io::Result<MemoryReading> {
        self.machine()?.reading()
    }

    fn memory_lag(&self) -> Duration {
        // host_statistics64: 2 to 10 fresh answers a second for all third-party programs together, then a cached one
        // for up to 1 s (xnu-11417, osfmk/kern/host.c, get_cached_info).
        Duration::from_secs(1)
    }

    fn panic_reports(&self) -> Option<PathBuf> {
        Some(PathBuf::from("/Library/Logs/DiagnosticReports"))
    }

    fn identify(&self, pid: i32) -> io::Result<Option<Identity>> {
        identify(pid)
    }

    fn started(&self, who: Identity) -> Moment {
        let epoch = Duration::from_micros(who.started);
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Moment(now().0.saturating_sub(wall.saturating_sub(epoch)))
    }

    fn watch(&self, who: Identity) -> io::Result<ExitWatch> {
        watch::watch(who)
    }

    fn footprint(&self, who: Identity) -> io::Result<Footprint> {
        process::footprint(who)
    }

    fn cpu_time(&self, who: Identity) -> io::Result<Duration> {
        process::cpu_time(who)
    }

    fn bytes_read(&self, who: Identity) -> Option<Bytes> {
        process::bytes_read(who)
    }

    fn signal(&self, who: Identity, signal: Signal) -> io::Result<()> {
        match process::info(who.pid)? {
            Some(info) if info.started != who.started => Err(posix::stranger(who.pid)),
            Some(info) if info.alive() => self.send(who, info.group == who.pid, signal),
            _ if process::survivors(who) => self.send(who, true, signal),
            _ => Ok(()),
        }
    }

    fn group_alive(&self, who: Identity) -> bool {
        process::info_of(who).is_ok() || (posix::group_exists(who.pid) && process::survivors(who))
    }

    fn owns_port(&self, who: Identity, port: u16) -> Option<bool> {
        ports::owns(who, port)
    }

    fn set_priority(&self, who: Identity, priority: Priority) -> io::Result<()> {
        process::set_priority(who, priority)
    }

    fn power(&self) -> io::Result<Power> {
        power::ask(Path::new("/usr/bin/pmset"))
    }

    fn hold_sleep(&self) -> io::Result<SleepHold> {
        power::hold(Path::new("/usr/bin/caffeinate"))
    }

    fn give_back(&self) {
        // macOS does not charge a process for pages of its program, only for what would have to be swapped.
        memory::relieve();
    }

    fn running(&self, names: &[String]) -> Vec<String> {
        process::running(names)
    }

    fn find_by_argument(&self, marker: &str) -> Vec<Marked> {
        process::find_by_argument(marker)
    }
}

impl System {
    /// For a group of nothing but zombies macOS returns EPERM, where Linux reports success.
    fn send(&self, who: Identity, leads_group: bool, signal: Signal) -> io::Result<()> {
        match posix::send(who.pid, leads_group, signal) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !self.group_alive(who) => Ok(()),
            sent => sent,
        }
    }
}
