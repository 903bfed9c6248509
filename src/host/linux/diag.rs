//! Asks the kernel which sockets listen on a port (sock_diag(7)).
//!
//! `/proc/net/tcp` has the same information, but for it the kernel walks its table of all connections, which takes 1.1
//! ms on a machine with none; this walks the table of listeners, about 11 µs once the socket is open. Probes do this
//! every few seconds while a model is up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::super::procfs::{Listener, reaches_loopback};

/// `SOCK_DIAG_BY_FAMILY` in linux/sock_diag.h; the next two are `NLMSG_ERROR` and `NLMSG_DONE` in linux/netlink.h.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH`: all that match.
const DUMP: u16 = 0x301;
/// `TCP_LISTEN` (net/tcp_states.h), as a bit of the set of states.
const LISTENING: u32 = 1 << 10;
/// Length of `nlmsghdr`, and of `inet_diag_msg` (linux/inet_diag.h).
const HEADER: usize = 16;
const SOCKET: usize = 72;
/// Longest part of a dump (`inet_diag` and netlink fill pages of at most 32 KiB).
const PART: usize = 32 * 1024;

/// The IPv4 or IPv6 listeners on `port` that connections to 127.0.0.1 can reach.
///
/// # Errors
/// The system's own: some sandboxes forbid netlink sockets.
pub(super) fn listeners(family: AddressFamily, port: u16) -> io::Result<Vec<Listener>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    send(netlink.as_raw_fd(), &request(family, port)?, MsgFlags::empty())?;
    let (mut found, mut part) = (Vec::new(), vec![0; PART]);
    loop {
        let length = recv(netlink.as_raw_fd(), &mut part, MsgFlags::empty())?;
        if take_in(&part[..length], port, &mut found)? {
            return Ok(found);
        }
    }
}

/// `nlmsghdr` and `inet_diag_req_v2` for the listeners on one port.
fn request(family: AddressFamily, port: u16) -> io::Result<Vec<u8>> {
    const LENGTH: u8 = 72;
    let mut bytes = Vec::with_capacity(LENGTH.into());
    bytes.extend(u32::from(LENGTH).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    // Sequence number and port: not needed for one request per socket.
    bytes.extend([0; 8]);
    bytes.push(u8::try_from(family as i32).map_err(io::Error::other)?);
    bytes.extend([u8::try_from(libc::IPPROTO_TCP).map_err(io::Error::other)?, 0, 0]);
    bytes.extend(LISTENING.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(LENGTH.into(), 0);
    Ok(bytes)
}

/// Parses the messages of one part; returns whether it was the last.
fn take_in(mut part: &[u8], port: u16, found: &mut Vec<Listener>) -> io::Result<bool> {
    let torn = || io::Error::from(io::ErrorKind::InvalidData);
    while !part.is_empty() {
        let length = u32_at(part, 0).and_then(|length| usize::try_from(length).ok()).ok_or_else(torn)?;
        let message = part.get(HEADER..length).ok_or_else(torn)?;
        match u16_at(part, 4).ok_or_else(torn)? {
            DONE => return Ok(true),
            ERROR => {
                let number = u32_at(message, 0).ok_or_else(torn)?.cast_signed();
                return Err(io::Error::from_raw_os_error(number.saturating_neg()));
            }
            BY_FAMILY => found.extend(listener(message, port)),
            _ => {}
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Parses an `inet_diag_msg`; `None` unless it is a listener on this port that loopback can reach.
fn listener(message: &[u8], port: u16) -> Option<Listener> {
    let message = message.get(..SOCKET)?;
    if message[4..6] != port.to_be_bytes() {
        return None;
    }
    let address: [u8; 16] = message[8..24].try_into().ok()?;
    let [a, b, c, d, ..] = address;
    let address: IpAddr = match i32::from(message[0]) {
        libc::AF_INET => Ipv4Addr::new(a, b, c, d).into(),
        _ => Ipv6Addr::from(address).into(),
    };
    Some(Listener { inode: u32_at(message, 68)?.into(), exact: reaches_loopback(address)? })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn inode(listener: &TcpListener) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn the_kernel_names_the_listener_of_a_port_and_whether_it_is_loopbacks_own() {
        for (address, family, exact) in [
            ("127.0.0.1:0", AddressFamily::Inet, true),
            ("0.0.0.0:0", AddressFamily::Inet, false),
            ("[::]:0", AddressFamily::Inet6, false),
        ] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let wanted = Listener { inode: inode(&listener), exact };
            assert_eq!(listeners(family, port).unwrap(), [wanted], "{address}");
            drop(listener);
            assert_eq!(listeners(family, port).unwrap(), [], "{address}");
        }
    }

    #[test]
    fn a_listener_that_loopback_does_not_reach_is_none() {
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listeners(AddressFamily::Inet, port).unwrap(), []);
    }

    #[test]
    fn a_torn_answer_is_an_error_and_a_refusal_has_the_systems_number() {
        let mut found = Vec::new();
        for torn in [&[1][..], &[200, 0, 0, 0, 20, 0], &[0; 16]] {
            let kind = take_in(torn, 80, &mut found).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidData, "{torn:?}");
        }
        let mut refusal = 20_u32.to_ne_bytes().to_vec();
        refusal.extend(ERROR.to_ne_bytes());
        refusal.extend([0; 10]);
        refusal.extend((-libc::EPERM).to_ne_bytes());
        let error = take_in(&refusal, 80, &mut found).unwrap_err();
        assert_eq!((error.raw_os_error(), found), (Some(libc::EPERM), Vec::new()));
    }
}
