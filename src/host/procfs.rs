//! Parses Linux's text files. Pure, and so tested on every system.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::seam::Pressure;
use crate::units::Bytes;

/// The fields of `/proc/PID/stat` that are needed (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Field 3, a letter: `R`, `S`, `D`, `Z` (zombie), `X` (dead), …
    pub state: u8,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Fields 14 and 15, user and system, in clock ticks.
    pub cpu_ticks: u64,
    pub nice: i32,
    /// Field 22, clock ticks since boot.
    pub started: u64,
}

impl Stat {
    /// Whether it has not ended: it is neither dead nor a zombie.
    pub(super) fn alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Parses `/proc/PID/stat`. A process can have any name, even `) R 1 1`: the fields start after the last `)`.
pub(super) fn stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().take(20).collect();
    // The first one after the name is field 3 in the manual.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        state: *field(3)?.as_bytes().first()?,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        cpu_ticks: field(14)?.parse::<u64>().ok()?.saturating_add(field(15)?.parse().ok()?),
        nice: field(19)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    })
}

/// The value of `Key:   123 kB` (`/proc/meminfo`, `/proc/PID/status`; their kB are 1024 bytes), or of `key: 123`.
pub(super) fn labelled(text: &str, key: &str) -> Option<Bytes> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let mut words = value.split_ascii_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    Some(Bytes(if words.next() == Some("kB") { number.saturating_mul(1024) } else { number }))
}

/// Memory of a process that cannot be dropped and read again: anonymous, shared and swapped, from `/proc/PID/status`.
/// `None` for a kernel thread or a zombie.
pub(super) fn footprint(status: &str) -> Option<Bytes> {
    let part = |key| labelled(status, key);
    Some(part("RssAnon")? + part("RssShmem")? + part("VmSwap").unwrap_or_default())
}

/// Parses `/proc/pressure/memory`: the share of the last ten seconds in which tasks stalled on memory. Warning from 10
/// % for some tasks, critical from 10 % for all of them at once; both thresholds are this program's own.
pub(super) fn pressure(text: &str) -> Pressure {
    let share = |who: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(who));
        let value =
            line.and_then(|line| line.split_ascii_whitespace().find_map(|f| f.strip_prefix("avg10=")));
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    if share("full ") >= 10.0 {
        Pressure::Critical
    } else if share("some ") >= 10.0 {
        Pressure::Warning
    } else {
        Pressure::Normal
    }
}

/// The cgroup v2 path of a process, from its `/proc/PID/cgroup`.
pub(super) fn cgroup_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// A limit such as `memory.max`; `None` for `max`.
pub(super) fn cgroup_limit(text: &str) -> Option<Bytes> {
    text.trim().parse().ok().map(Bytes)
}

/// What a cgroup can still allocate: its limit minus its use, without inactive file pages, because the kernel drops
/// those before the limit is hit. `stat` is the text of `memory.stat`.
pub(super) fn cgroup_available(limit: Bytes, current: Bytes, stat: &str) -> Bytes {
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok());
    limit.saturating_sub(current.saturating_sub(Bytes(cached.unwrap_or(0))))
}

/// A listening TCP socket that connections to 127.0.0.1 can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listener {
    /// Its inode, by which `/proc/PID/fd` refers to it.
    pub inode: u64,
    /// Whether it is bound to 127.0.0.1 itself, so that the kernel prefers it to one bound to every address.
    pub exact: bool,
}

/// The listeners on `port` in `/proc/net/tcp` or `/proc/net/tcp6`. A socket bound to `::` counts, although it may
/// refuse IPv4, which the table does not show.
pub(super) fn listeners(table: &str, port: u16) -> Vec<Listener> {
    let reached = |(bound, inode)| Some(Listener { inode, exact: reaches_loopback(bound)? });
    listening(table, port).filter_map(reached).collect()
}

/// Address and inode of every socket that listens on `port`.
pub(super) fn listening(table: &str, port: u16) -> impl Iterator<Item = (IpAddr, u64)> {
    const LISTEN: &str = "0A";
    let row = move |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        let (bound, hex_port) = fields.get(1)?.split_once(':')?;
        if u16::from_str_radix(hex_port, 16).ok()? != port || *fields.get(3)? != LISTEN {
            return None;
        }
        Some((address(bound)?, fields.get(9)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(row)
}

/// Parses an address in those tables.
fn address(hex: &str) -> Option<IpAddr> {
    // The kernel prints each 32-bit word of the address, stored in network order, as a number in native order.
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(index * 8)?);
    }
    Some(Ipv6Addr::from(bytes).into())
}

/// `None` if connections to 127.0.0.1 do not reach this address, else whether it is 127.0.0.1 itself.
pub(super) fn reaches_loopback(address: IpAddr) -> Option<bool> {
    let v4 = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) if v6.is_unspecified() => return Some(false),
        IpAddr::V6(v6) => v6.to_ipv4_mapped()?,
    };
    match v4 {
        Ipv4Addr::LOCALHOST => Some(true),
        Ipv4Addr::UNSPECIFIED => Some(false),
        _ => None,
    }
}

/// Whether a process is called `name`: by its `comm` (at most 15 bytes) or, for longer names, by its executable's file
/// name.
pub(super) fn goes_by(name: &str, comm: &str, executable: impl FnOnce() -> Option<String>) -> bool {
    const COMM_BYTES: usize = 15;
    let comm = comm.trim_end_matches('\n');
    if name.len() <= COMM_BYTES {
        return name.eq_ignore_ascii_case(comm);
    }
    let start = name.get(..COMM_BYTES);
    start.is_some_and(|start| start.eq_ignore_ascii_case(comm))
        && executable().is_some_and(|executable| executable.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "15060 (a) R 9 (b) S 15045 15044 15043 0 -1 4194304 104 0 0 0 250 50 0 0 20 5 7 0 148744 3133440 391 18446744073709551615 94219173486592";

    #[test]
    fn a_process_name_cannot_forge_the_fields_behind_it() {
        assert_eq!(
            stat(STAT),
            Some(Stat {
                state: b'S',
                parent: 15045,
                group: 15044,
                session: 15043,
                cpu_ticks: 300,
                nice: 5,
                started: 148_744
            })
        );
    }

    #[test]
    fn a_torn_or_foreign_line_is_no_process() {
        for text in [
            "",
            "15060",
            "1 (sh) S 1",
            &STAT[..STAT.len() - 60],
            "1 (x) S a b c d e f g h i j k l m n o p q r s",
        ] {
            assert_eq!(stat(text), None, "{text}");
        }
    }

    #[test]
    fn a_zombie_is_not_alive() {
        assert!(!stat(&STAT.replace(") S", ") Z")).unwrap().alive());
    }

    #[test]
    fn memory_is_read_in_kibibytes() {
        let text = "MemTotal:       24684084 kB\nMemFree:  1 kB\nMemAvailable:   24044812 kB\n";
        assert_eq!(labelled(text, "MemAvailable"), Some(Bytes(24_044_812 * 1024)));
        assert_eq!(labelled(text, "Mem"), None);
        assert_eq!(labelled("rchar: 6976\nwchar: 0\n", "rchar"), Some(Bytes(6976)));
    }

    #[test]
    fn a_footprint_is_what_cannot_be_dropped() {
        let status = "Name:\tpython\nVmHWM:\t 900 kB\nRssAnon:\t     112 kB\nRssFile:\t    1632 kB\nRssShmem:\t       8 kB\nVmSwap:\t       30 kB\n";
        assert_eq!(footprint(status), Some(Bytes(150 * 1024)));
        assert_eq!(footprint("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn pressure_comes_from_the_last_ten_seconds() {
        let text = |some: &str, full: &str| {
            format!(
                "some avg10={some} avg60=99.00 avg300=99.00 total=1\nfull avg10={full} avg60=99.00 avg300=0.00 total=1\n"
            )
        };
        assert_eq!(pressure(&text("0.00", "0.00")), Pressure::Normal);
        assert_eq!(pressure(&text("9.99", "9.99")), Pressure::Normal);
        assert_eq!(pressure(&text("10.00", "9.99")), Pressure::Warning);
        assert_eq!(pressure(&text("40.00", "10.00")), Pressure::Critical);
        assert_eq!(pressure(""), Pressure::Normal);
    }

    #[test]
    fn a_cgroup_limits_what_is_available() {
        assert_eq!(cgroup_path("4:memory:/old\n0::/user.slice/app.scope\n"), Some("/user.slice/app.scope"));
        assert_eq!(cgroup_limit("max\n"), None);
        assert_eq!(cgroup_limit("8589934592\n"), Some(Bytes(8_589_934_592)));
        let stat = "anon 5\nfile 900\ninactive_anon 1\ninactive_file 300\nactive_file 600\n";
        assert_eq!(cgroup_available(Bytes(1000), Bytes(800), stat), Bytes(500));
        assert_eq!(cgroup_available(Bytes(1000), Bytes(2000), stat), Bytes(0));
    }

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1 0 100 0 0 10 0
   1: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 222 1 0 100 0 0 10 0
   2: 0100007F:1F40 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 333 1 0 100 0 0 10 0
   3: 0201A8C0:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 444 1 0 100 0 0 10 0
   4: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 555 1 0 100 0 0 10 0
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 666 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 777 1 0 100 0 0 10 0
   2: 0000000000000000FFFF00000100007F:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 888 1 0 100 0 0 10 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn only_listeners_that_loopback_reaches_count() {
        let inodes = |table| listeners(table, 8000).iter().map(|l| (l.inode, l.exact)).collect::<Vec<_>>();
        assert_eq!(inodes(TCP), [(111, true), (222, false)]);
        assert_eq!(inodes(TCP6), [(666, false), (888, true)]);
        assert_eq!(listeners(TCP, 9), []);
    }

    #[test]
    fn long_names_are_compared_beyond_what_the_kernel_keeps() {
        let exe = |name: &'static str| move || Some(name.to_owned());
        assert!(goes_by("civ6", "Civ6\n", || None));
        assert!(!goes_by("civ", "Civ6\n", || None));
        assert!(goes_by("CivilizationVI_Exe", "CivilizationVI_\n", exe("civilizationvi_exe")));
        assert!(!goes_by("CivilizationVI_Exe", "CivilizationVI_\n", exe("CivilizationVI_Launcher")));
    }
}
