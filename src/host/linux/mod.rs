//! The [`Host`] of Linux.

mod diag;
mod give_back;
mod memory;
mod nvml;
mod pidfd;
mod ports;
mod power;
mod priority;
mod process;

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::ClockId;

use super::{facts, posix};
use crate::clock::Moment;
use crate::clock::hours::LocalTime;
use crate::host::seam::{
    ExitWatch, Facts, Footprint, Host, Identity, Marked, MemoryReading, Power, Priority, Signal, SleepHold,
};
use crate::units::Bytes;

/// Clock ticks per second in `/proc/PID/stat`: `USER_HZ`, 100 on every architecture for which Rust has a standard
/// library (include/asm-generic/param.h).
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug)]
pub(super) struct System {
    facts: OnceLock<Facts>,
    cgroups: memory::Cgroups,
    gpu: OnceLock<Option<nvml::Nvml>>,
}

pub(super) fn system() -> System {
    System { facts: OnceLock::new(), cgroups: memory::Cgroups::own(), gpu: OnceLock::new() }
}

pub(super) fn relieve() {
    give_back::heap();
}

pub(super) fn keep_memory_small() {
    give_back::keep_no_large_blocks();
    give_back::map_in_small_pieces();
}

pub(super) fn boot_id() -> io::Result<String> {
    Ok(process::read("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

pub(super) fn now() -> Moment {
    posix::clock(ClockId::CLOCK_BOOTTIME)
}

pub(super) fn port_holders(port: u16) -> Vec<crate::host::seam::PortHolder> {
    ports::holders(port)
}

pub(super) fn identify(pid: i32) -> io::Result<Option<Identity>> {
    let stat = process::stat(pid)?.filter(super::procfs::Stat::alive);
    Ok(stat.map(|stat| Identity { pid, started: stat.started }))
}

pub(super) fn identify_child(pid: i32) -> io::Result<Identity> {
    let stat = process::stat(pid)?.ok_or_else(|| posix::gone(pid))?;
    Ok(Identity { pid, started: stat.started })
}

impl System {
    fn gpu(&self) -> Option<&nvml::Nvml> {
        self.gpu.get_or_init(nvml::Nvml::open).as_ref()
    }
}

impl Host for System {
    fn now(&self) -> Moment {
        now()
    }

    fn awake(&self) -> Moment {
        posix::clock(ClockId::CLOCK_MONOTONIC)
    }

    fn local_time(&self) -> Option<LocalTime> {
        posix::time_of_day()
    }

    fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| {
            let version = sysinfo::System::kernel_version().unwrap_or_default();
            let short: Vec<&str> = version.splitn(3, '.').take(2).collect();
            let os = format!("Linux {}", short.join("."));
            facts::collect(os, memory::total(&self.cgroups), boot_id().unwrap_or_default())
        })
    }

    fn memory(&self) -> io::Result<MemoryReading> {
        let card = self.gpu().and_then(nvml::Nvml::memory);
        let reading = memory::reading(&self.cgroups)?;
        Ok(MemoryReading {
            gpu_limit: card.map(|card| card.total),
            gpu_free: card.map(|card| card.free),
            ..reading
        })
    }

    fn identify(&self, pid: i32) -> io::Result<Option<Identity>> {
        identify(pid)
    }

    fn started(&self, who: Identity) -> Moment {
        // Counted from boot and including sleep, like the clock (proc_pid_stat(5), clock_gettime(2)).
        Moment(Duration::from_millis(who.started.saturating_mul(1000 / TICKS_PER_SECOND)))
    }

    fn watch(&self, who: Identity) -> io::Result<ExitWatch> {
        pidfd::watch(who)
    }

    fn footprint(&self, who: Identity) -> io::Result<Footprint> {
        let gpu = self.gpu().and_then(|gpu| gpu.used_by(&process::family(who.pid)));
        Ok(Footprint { gpu, ..process::footprint(who)? })
    }

    fn cpu_time(&self, who: Identity) -> io::Result<Duration> {
        let ticks = process::stat_of(who)?.cpu_ticks;
        Ok(Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND)))
    }

    fn bytes_read(&self, who: Identity) -> Option<Bytes> {
        process::bytes_read(who)
    }

    fn signal(&self, who: Identity, signal: Signal) -> io::Result<()> {
        pidfd::signal(who, signal)
    }

    fn group_alive(&self, who: Identity) -> bool {
        process::stat_of(who).is_ok() || (posix::group_exists(who.pid) && process::survivors(who))
    }

    fn owns_port(&self, who: Identity, port: u16) -> Option<bool> {
        ports::owns(who, port)
    }

    fn set_priority(&self, who: Identity, priority: Priority) -> io::Result<()> {
        priority::set(who, priority)
    }

    fn power(&self) -> io::Result<Power> {
        Ok(power::reading(
            Path::new("/sys/class/power_supply"),
            Path::new("/sys/firmware/acpi/platform_profile"),
        ))
    }

    fn hold_sleep(&self) -> io::Result<SleepHold> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn give_back(&self) {
        give_back::heap();
        give_back::program();
    }

    fn running(&self, names: &[String]) -> Vec<String> {
        process::running(names)
    }

    fn find_by_argument(&self, marker: &str) -> Vec<Marked> {
        process::find_by_argument(marker)
    }
}
