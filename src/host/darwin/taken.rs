//! Checks whether a program listens on a loopback port, by trying to bind it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// Addresses whose listeners get connections to 127.0.0.1. macOS allows an exact address to be bound next to a wildcard
/// one (`in_pcbbind` in xnu-11417, bsd/netinet/in_pcb.c), so each is tried separately.
const REACHED: [IpAddr; 3] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// Whether any of them is in use. Sockets that share the port through SO_REUSEPORT go unnoticed.
pub(crate) fn taken(port: u16) -> bool {
    let in_use = |address| bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    REACHED.into_iter().any(|address| in_use(SocketAddr::new(address, port)))
}

/// Binds and drops a socket without listening, so that no client can reach it. Connections that are still closing do
/// not count (SO_REUSEADDR).
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_on_any_address_that_loopback_reaches_is_noticed() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let stranger = std::net::TcpListener::bind(address).unwrap();
            let port = stranger.local_addr().unwrap().port();
            assert!(taken(port), "{address}");
            drop(stranger);
            assert!(!taken(port), "{address}, after it");
        }
        assert!(REACHED.contains(&IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    }
}
