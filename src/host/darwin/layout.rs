//! The layouts of macOS's structures that are read here as bytes, or that libc declares and the kernel fills in.
//!
//! The headers are transcribed twice: as structures, whose offsets the compiler counts, and as the numbers that a C
//! compiler gives for them (arm64 and x86-64 agree). A mistake in either, or in libc, does not compile.

use std::mem::offset_of;

/// `struct proc_fileinfo`; like the structures that follow, from bsd/sys/proc_info.h in xnu.
#[repr(C)]
struct FileInfo {
    openflags: u32,
    status: u32,
    offset: i64,
    kind: i32,
    guardflags: u32,
}

/// `struct vinfo_stat`.
#[repr(C)]
struct Stat {
    dev: u32,
    mode: u16,
    nlink: u16,
    ino: u64,
    uid: u32,
    gid: u32,
    /// Access, modification, change and birth, each in seconds and nanoseconds.
    times: [[i64; 2]; 4],
    size: i64,
    blocks: i64,
    blksize: i32,
    flags: u32,
    generation: u32,
    rdev: u32,
    qspare: [i64; 2],
}

/// `struct sockbuf_info`.
#[repr(C)]
struct SocketBuffer {
    cc: u32,
    hiwat: u32,
    mbcnt: u32,
    mbmax: u32,
    lowat: u32,
    flags: i16,
    timeo: i16,
}

/// `struct in_sockinfo`.
#[repr(C)]
struct InternetSocket {
    fport: i32,
    lport: i32,
    gencnt: u64,
    flags: u32,
    flow: u32,
    vflag: u8,
    ttl: u8,
    reserved: u32,
    faddr: [u32; 4],
    laddr: [u32; 4],
    v4_tos: u8,
    v6: InternetSocket6,
}

/// Its `insi_v6`.
#[repr(C)]
struct InternetSocket6 {
    hlim: u8,
    cksum: i32,
    ifindex: u16,
    hops: i16,
}

/// `struct tcp_sockinfo`.
#[repr(C)]
struct TcpSocket {
    ini: InternetSocket,
    state: i32,
    timer: [i32; 4],
    mss: i32,
    flags: u32,
    reserved: u32,
    tp: u64,
}

/// `struct un_sockinfo`, the largest member of the union: two handles, two addresses of `SOCK_MAXADDRLEN`.
#[repr(C)]
struct UnixSocket {
    peer: [u64; 2],
    addresses: [[u8; 255]; 2],
}

/// `soi_proto`.
#[repr(C)]
union Protocol {
    tcp: std::mem::ManuallyDrop<TcpSocket>,
    unix: std::mem::ManuallyDrop<UnixSocket>,
}

#[repr(C)]
struct SocketInfo {
    stat: Stat,
    so: u64,
    pcb: u64,
    kind_of: i32,
    protocol: i32,
    family: i32,
    /// Options, linger, state, the three queue lengths, timeout, error.
    shorts: [i16; 8],
    oobmark: u32,
    receive: SocketBuffer,
    send: SocketBuffer,
    kind: i32,
    reserved: u32,
    proto: Protocol,
}

/// `struct socket_fdinfo`.
#[repr(C)]
struct SocketFdInfo {
    file: FileInfo,
    socket: SocketInfo,
}

/// `struct xsw_usage` (bsd/sys/sysctl.h).
#[repr(C)]
struct SwapUsage {
    total: u64,
    available: u64,
    used: u64,
    page_size: u32,
    encrypted: i32,
}

/// The size of `struct socket_fdinfo`, which is exactly what `proc_pidfdinfo` returns. Below: offsets in it.
pub(crate) const SOCKET_FDINFO: usize = size_of::<SocketFdInfo>();
// `soi_kind`
pub(super) const KIND: usize = offset_of!(SocketFdInfo, socket) + offset_of!(SocketInfo, kind);
// `soi_proto`, which holds a `tcp_sockinfo`
const PROTOCOL: usize = offset_of!(SocketFdInfo, socket) + offset_of!(SocketInfo, proto);
// `insi_lport`
pub(super) const LOCAL_PORT: usize =
    PROTOCOL + offset_of!(TcpSocket, ini) + offset_of!(InternetSocket, lport);
// `insi_vflag`
pub(super) const VERSION: usize = PROTOCOL + offset_of!(TcpSocket, ini) + offset_of!(InternetSocket, vflag);
// `insi_laddr`
pub(super) const LOCAL_ADDRESS: usize =
    PROTOCOL + offset_of!(TcpSocket, ini) + offset_of!(InternetSocket, laddr);
// `tcpsi_state`
pub(super) const STATE: usize = PROTOCOL + offset_of!(TcpSocket, state);
/// Offset of `xsu_used` in `struct xsw_usage`.
pub(super) const SWAP_USED: usize = offset_of!(SwapUsage, used);

const _: () = {
    assert!(size_of::<FileInfo>() == 24);
    assert!(size_of::<Stat>() == 136);
    assert!(size_of::<SocketBuffer>() == 24);
    assert!(size_of::<InternetSocket>() == 80);
    assert!(size_of::<TcpSocket>() == 120);
    assert!(size_of::<UnixSocket>() == 528);
    assert!(size_of::<SocketInfo>() == 768);
    assert!(SOCKET_FDINFO == 792);
    assert!(KIND == 24 + 232);
    assert!(PROTOCOL == 24 + 240);
    assert!(LOCAL_PORT == PROTOCOL + 4);
    assert!(VERSION == PROTOCOL + 24);
    assert!(LOCAL_ADDRESS == PROTOCOL + 48);
    assert!(STATE == PROTOCOL + 80);
    assert!(size_of::<SwapUsage>() == 32 && SWAP_USED == 16);
};

/// The fields of libc's declarations that are read.
#[cfg(target_os = "macos")]
const _: () = {
    use libc::{proc_bsdinfo, proc_fdinfo, rusage_info_v4, vinfo_stat, vm_statistics64, xsw_usage};

    assert!(size_of::<vinfo_stat>() == size_of::<Stat>());
    assert!(size_of::<xsw_usage>() == size_of::<SwapUsage>());
    assert!(offset_of!(xsw_usage, xsu_used) == SWAP_USED);
    assert!(size_of::<proc_fdinfo>() == 8 && offset_of!(proc_fdinfo, proc_fdtype) == 4);

    assert!(size_of::<proc_bsdinfo>() == 136);
    assert!(offset_of!(proc_bsdinfo, pbi_status) == 4);
    assert!(offset_of!(proc_bsdinfo, pbi_pgid) == 100);
    assert!(offset_of!(proc_bsdinfo, pbi_start_tvsec) == 120);
    assert!(offset_of!(proc_bsdinfo, pbi_start_tvusec) == 128);

    // bsd/sys/resource.h
    assert!(size_of::<rusage_info_v4>() == 296);
    assert!(offset_of!(rusage_info_v4, ri_user_time) == 16);
    assert!(offset_of!(rusage_info_v4, ri_system_time) == 24);
    assert!(offset_of!(rusage_info_v4, ri_phys_footprint) == 72);
    assert!(offset_of!(rusage_info_v4, ri_diskio_bytesread) == 144);
    assert!(offset_of!(rusage_info_v4, ri_lifetime_max_phys_footprint) == 240);

    // osfmk/mach/vm_statistics.h; later systems append to it.
    assert!(offset_of!(vm_statistics64, active_count) == 4);
    assert!(offset_of!(vm_statistics64, inactive_count) == 8);
    assert!(offset_of!(vm_statistics64, wire_count) == 12);
    assert!(offset_of!(vm_statistics64, purgeable_count) == 88);
    assert!(offset_of!(vm_statistics64, speculative_count) == 92);
    assert!(offset_of!(vm_statistics64, compressor_page_count) == 128);
    assert!(offset_of!(vm_statistics64, external_page_count) == 136);
};
