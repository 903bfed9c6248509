//! Interprets macOS's structures and system variables. Pure, and so tested on every system.
//!
//! None of this has run on a Mac: the layouts ([`layout`]) are those of the headers, the samples are made by hand.

mod layout;
pub(super) mod lsof;
pub(super) mod taken;

pub(crate) use layout::SOCKET_FDINFO;

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::host::seam::Exit;
use crate::host::seam::Pressure;
use crate::units::Bytes;
use nix::errno::Errno;

/// The fields of `vm_statistics64` (mach/vm_statistics.h) that are needed, counts of pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pages {
    pub active: u64,
    pub inactive: u64,
    pub speculative: u64,
    pub wired: u64,
    /// Pages that hold compressed memory.
    pub compressor: u64,
    /// Marked as droppable by their owner.
    pub purgeable: u64,
    /// Backed by files, and so cached.
    pub external: u64,
}

impl Pages {
    /// What a new process could allocate: `total` minus what Activity Monitor calls "used", which includes neither
    /// purgeable pages nor cached files.
    pub(super) fn available(&self, total: Bytes, page_size: u64) -> Bytes {
        let taken = self.active + self.inactive + self.speculative + self.wired + self.compressor;
        let used = taken.saturating_sub(self.purgeable + self.external);
        total.saturating_sub(Bytes(used.saturating_mul(page_size)))
    }
}

/// `kern.memorystatus_vm_pressure_level` (`DISPATCH_MEMORYPRESSURE_*`, dispatch/source.h): 1, 2 or 4.
pub(super) fn pressure(level: u64) -> Pressure {
    match level {
        0 | 1 => Pressure::Normal,
        2 => Pressure::Warning,
        _ => Pressure::Critical,
    }
}

/// A number of 4 or 8 bytes, the sizes of system variables, in native order.
pub(super) fn integer(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 => Some(u32::from_ne_bytes(bytes.try_into().ok()?).into()),
        8 => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

/// `vm.swapusage`: `struct xsw_usage` (sys/sysctl.h), total, available and used first.
pub(super) fn swap_used(bytes: &[u8]) -> Option<Bytes> {
    integer(bytes.get(layout::SWAP_USED..layout::SWAP_USED + 8)?).map(Bytes)
}

/// `iogpu.wired_limit_mb`; `None` for 0, which means a default that only Metal knows.
pub(super) fn gpu_limit(megabytes: u64) -> Option<Bytes> {
    (megabytes > 0).then(|| Bytes(megabytes.saturating_mul(1 << 20)))
}

/// Mach time in nanoseconds, by the fraction in `mach_timebase_info` (on Apple Silicon 125/3).
pub(super) fn nanoseconds(ticks: u64, numerator: u32, denominator: u32) -> u64 {
    let nanoseconds = u128::from(ticks) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

/// Whether a `struct socket_fdinfo` is a TCP socket that listens on `port` and that connections to 127.0.0.1 can reach.
pub(super) fn listens(info: &[u8; SOCKET_FDINFO], port: u16) -> bool {
    const SOCKINFO_TCP: u32 = 2;
    const TSI_S_LISTEN: u32 = 1;
    const INI_IPV4: u8 = 1;
    let word =
        |at: usize| info.get(at..at + 4).and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)));
    let address = info.get(layout::LOCAL_ADDRESS..layout::LOCAL_ADDRESS + 16);
    let address = address.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    // The port is stored in network order at the start of an int.
    let local_port =
        info.get(layout::LOCAL_PORT..layout::LOCAL_PORT + 2).map(|bytes| bytes == port.to_be_bytes());
    let version = info.get(layout::VERSION).copied().unwrap_or(0);
    word(layout::KIND) == Some(SOCKINFO_TCP)
        && word(layout::STATE) == Some(TSI_S_LISTEN)
        && local_port == Some(true)
        && address.is_some_and(|address| reached_from_loopback(address, version & INI_IPV4 != 0))
}

/// An IPv4 address is in the last 4 of the 16 bytes. A socket for both versions has `::`.
fn reached_from_loopback(address: [u8; 16], v4: bool) -> bool {
    let [.., a, b, c, d] = address;
    if v4 {
        return matches!(Ipv4Addr::new(a, b, c, d), Ipv4Addr::LOCALHOST | Ipv4Addr::UNSPECIFIED);
    }
    let v6 = Ipv6Addr::from(address);
    v6.is_unspecified() || v6.to_ipv4_mapped() == Some(Ipv4Addr::LOCALHOST)
}

/// The arguments in the result of `KERN_PROCARGS2`, which has their number, the executable's path, padding, the
/// arguments, and the environment (`sysctl_procargsx` in xnu's bsd/kern/kern_sysctl.c).
pub(super) fn arguments(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let count = bytes.get(..4).and_then(integer).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let rest = bytes.get(4..).unwrap_or_default();
    let path_end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    let rest = rest.get(path_end..).unwrap_or_default();
    let padding = rest.iter().take_while(|&&byte| byte == 0).count();
    rest.get(padding..).unwrap_or_default().split(|&byte| byte == 0).take(count)
}

/// Whether an error of `proc_pidinfo` means that this user has no process with the pid: there is none, or it is another
/// user's now (EPERM: `proc_security_policy` in xnu-11417, bsd/kern/proc_info.c). Ours is gone either way.
pub(super) fn nobody(error: Errno) -> bool {
    matches!(error, Errno::ESRCH | Errno::EPERM)
}

/// Parses what `NOTE_EXITSTATUS` adds to a `NOTE_EXIT` event: wait(2)'s status, in the low bits of the data
/// (`NOTE_PDATAMASK`, sys/event.h; `filt_proc` in xnu-11417, bsd/kern/kern_event.c). Any process that may signal the
/// other gets it, parent or not.
pub(super) fn exit(data: i64) -> Exit {
    let status = i32::try_from(data & 0x000f_ffff).unwrap_or(0);
    // wait(2): a signal's number in the low seven bits, the code above the low eight.
    match status & 0x7f {
        0 => Exit::Code((status >> 8) & 0xff),
        signal => Exit::Signal(signal),
    }
}

/// Whether a process is called `name`; macOS keeps 31 bytes of names (`pbi_name`, sys/proc_info.h).
pub(super) fn goes_by(name: &str, kept: &str) -> bool {
    const KEPT_BYTES: usize = 31;
    name.get(..KEPT_BYTES).unwrap_or(name).eq_ignore_ascii_case(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_files_and_purgeable_pages_are_available() {
        let pages = Pages {
            active: 2_000_000,
            inactive: 1_900_000,
            speculative: 100_000,
            wired: 500_000,
            compressor: 300_000,
            purgeable: 50_000,
            external: 1_250_000,
        };
        // 3.5 million pages of 16 KiB are used.
        assert_eq!(pages.available(Bytes(128 << 30), 16384), Bytes((128 << 30) - 3_500_000 * 16384));
        assert_eq!(pages.available(Bytes::gb(1), 16384), Bytes::ZERO, "more used than there is");
        assert_eq!(Pages { external: 9, ..Pages::default() }.available(Bytes::gb(1), 16384), Bytes::gb(1));
    }

    #[test]
    fn pressure_has_three_levels() {
        assert_eq!([1, 2, 4].map(pressure), [Pressure::Normal, Pressure::Warning, Pressure::Critical]);
    }

    #[test]
    fn variables_are_read_in_either_size() {
        assert_eq!(integer(&2u32.to_ne_bytes()), Some(2));
        assert_eq!(integer(&(128u64 << 30).to_ne_bytes()), Some(128 << 30));
        assert_eq!(integer(b"no"), None);
        assert_eq!(gpu_limit(0), None);
        assert_eq!(gpu_limit(110_000), Some(Bytes(110_000 << 20)));
    }

    #[test]
    fn swap_is_the_third_number() {
        let numbers = [3_221_225_472u64, 1_000, 3_221_224_472];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        assert_eq!(swap_used(&bytes[..20]), None);
        bytes.extend([0; 8]);
        assert_eq!(swap_used(&bytes), Some(Bytes(3_221_224_472)));
    }

    #[test]
    fn mach_ticks_are_scaled_without_overflow() {
        assert_eq!(nanoseconds(24_000_000, 125, 3), 1_000_000_000);
        assert_eq!(nanoseconds(u64::MAX, 125, 3), u64::MAX);
        assert_eq!(nanoseconds(7, 1, 1), 7);
    }

    fn socket(port: u16, address: [u8; 16], version: u8, state: u32) -> [u8; SOCKET_FDINFO] {
        let mut info = [0; SOCKET_FDINFO];
        let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
        put(256, &2u32.to_ne_bytes());
        put(264 + 4, &port.to_be_bytes());
        put(264 + 24, &[version]);
        put(264 + 48, &address);
        put(264 + 80, &state.to_ne_bytes());
        info
    }

    #[test]
    fn only_a_listener_that_loopback_reaches_counts() {
        let v4 = |address: Ipv4Addr| {
            let mut bytes = [0; 16];
            bytes[12..].copy_from_slice(&address.octets());
            bytes
        };
        let any6 = [0; 16];
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        assert!(listens(&socket(8000, v4(Ipv4Addr::LOCALHOST), 1, 1), 8000));
        assert!(listens(&socket(8000, v4(Ipv4Addr::UNSPECIFIED), 1, 1), 8000));
        assert!(listens(&socket(8000, any6, 3, 1), 8000));
        assert!(listens(&socket(8000, any6, 2, 1), 8000));
        assert!(listens(&socket(8000, mapped, 2, 1), 8000));
        assert!(!listens(&socket(8000, Ipv6Addr::LOCALHOST.octets(), 2, 1), 8000));
        assert!(!listens(&socket(8000, v4(Ipv4Addr::new(192, 168, 1, 2)), 1, 1), 8000));
        assert!(!listens(&socket(8000, v4(Ipv4Addr::LOCALHOST), 1, 4), 8000), "connected");
        assert!(!listens(&socket(8001, v4(Ipv4Addr::LOCALHOST), 1, 1), 8000));
        assert!(!listens(&[0; SOCKET_FDINFO], 0));
    }

    #[test]
    fn arguments_are_told_from_path_and_environment() {
        let mut bytes = 3u32.to_ne_bytes().to_vec();
        bytes.extend(b"/opt/Python.app/Contents/MacOS/Python\0\0\0\0python\0launcher.py\0/run/32b.json\0HOME=/secret\0");
        let words: Vec<&[u8]> = arguments(&bytes).collect();
        assert_eq!(words, [b"python".as_slice(), b"launcher.py", b"/run/32b.json"]);
        assert_eq!(arguments(b"").count(), 0);
        assert_eq!(arguments(&bytes[..10]).filter(|word| !word.is_empty()).count(), 0);
    }

    #[test]
    fn a_pid_of_another_user_is_nobodys() {
        assert!(nobody(Errno::ESRCH) && nobody(Errno::EPERM));
        assert!(
            !nobody(Errno::EINVAL) && !nobody(Errno::ENOMEM),
            "an error that says nothing of the process"
        );
    }

    #[test]
    fn the_end_of_an_adopted_process_is_known() {
        assert_eq!(exit(0), Exit::Code(0));
        assert_eq!(exit(3 << 8), Exit::Code(3));
        assert_eq!(exit(255 << 8), Exit::Code(255));
        assert_eq!(exit(9), Exit::Signal(9));
        assert_eq!(exit(0x80 | 11), Exit::Signal(11), "with a core file");
        assert_eq!(exit(0x0700_0000 | 9), Exit::Signal(9), "the bits above are not the status's");
    }

    #[test]
    fn names_are_compared_as_far_as_they_are_kept() {
        assert!(goes_by("civilization vi", "Civilization VI"));
        assert!(!goes_by("Civ", "Civ6"));
        assert!(goes_by("a name that is longer than thirty-one bytes", "a name that is longer than thir"));
    }
}
