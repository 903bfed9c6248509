//! Notifies systemd: sd_notify(3), a datagram to the socket that `$NOTIFY_SOCKET` names.
//!
//! Without that variable (launchd, a terminal) there is no one to notify, and [`Notifier::from_env`] is `None`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// The connection to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: Socket,
    manager: SockAddr,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// A notifier for the manager that started this process, if it wants notifications.
    ///
    /// # Errors
    /// The socket's name is not an address, or no socket can be created.
    pub(crate) fn from_env() -> io::Result<Option<Self>> {
        Self::from_variables(|name| std::env::var_os(name), std::process::id())
    }

    /// Like [`Self::from_env`], with variables from `get` and for process `pid`.
    pub(crate) fn from_variables(
        get: impl Fn(&str) -> Option<OsString>,
        pid: u32,
    ) -> io::Result<Option<Self>> {
        let Some(name) = get("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        // A manager that is stuck must not block the supervisor: a datagram that finds no room is dropped.
        socket.set_nonblocking(true)?;
        let watchdog = watchdog(get("WATCHDOG_USEC").as_deref(), get("WATCHDOG_PID").as_deref(), pid);
        Ok(Some(Self { socket, manager: address(&name)?, watchdog }))
    }

    /// How often to call [`Self::alive`]: half of the time that the manager allows, as sd_watchdog_enabled(3) advises.
    /// `None`: the manager does not watch.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Reports that the service is up.
    ///
    /// # Errors
    /// The manager's socket is gone or full.
    pub(crate) fn ready(&self, status: &str) -> io::Result<()> {
        self.send(&format!("READY=1\n{}", status_line(status)))
    }

    /// Reports that the event loop is still running.
    ///
    /// # Errors
    /// The manager's socket is gone or full.
    pub(crate) fn alive(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    fn send(&self, message: &str) -> io::Result<()> {
        self.socket.send_to(message.as_bytes(), &self.manager).map(drop)
    }
}

/// Replaces newlines, each of which would begin another assignment.
fn status_line(status: &str) -> String {
    format!("STATUS={}", status.replace(['\n', '\r'], " "))
}

/// A path, or after `@` a name in Linux's abstract namespace, which has a leading zero byte in the kernel.
fn address(name: &OsStr) -> io::Result<SockAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SockAddr::unix(OsStr::from_bytes(&[b"\0", rest].concat())),
        [b'/', ..] => SockAddr::unix(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("NOTIFY_SOCKET is not an address: {name:?}"),
        )),
    }
}

/// Half of `$WATCHDOG_USEC` (µs), if it is meant for this process.
fn watchdog(usec: Option<&OsStr>, owner: Option<&OsStr>, pid: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
    if owner.is_some_and(|owner| number(owner) != Some(u64::from(pid))) {
        return None;
    }
    usec.and_then(number).filter(|usec| *usec > 0).map(|usec| Duration::from_micros(usec) / 2)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn with<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    }

    #[test]
    fn without_a_socket_there_is_no_notifier() {
        assert!(Notifier::from_variables(with(&[]), 1).unwrap().is_none());
        assert!(Notifier::from_variables(with(&[("NOTIFY_SOCKET", "")]), 1).unwrap().is_none());
        assert!(Notifier::from_variables(with(&[("NOTIFY_SOCKET", "relative")]), 1).is_err());
    }

    #[test]
    fn the_manager_receives_every_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier =
            Notifier::from_variables(with(&[("NOTIFY_SOCKET", path.to_str().unwrap())]), 1).unwrap().unwrap();
        let heard = || {
            let mut buffer = [0; 256];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        notifier.ready("2 models\nREADY=0").unwrap();
        assert_eq!(heard(), "READY=1\nSTATUS=2 models READY=0");
        notifier.alive().unwrap();
        assert_eq!(heard(), "WATCHDOG=1");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn abstract_names_are_reached_too() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("mlxctl-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let socket = format!("@{name}");
        let notifier = Notifier::from_variables(with(&[("NOTIFY_SOCKET", &socket)]), 1).unwrap().unwrap();
        notifier.alive().unwrap();
        let mut buffer = [0; 32];
        assert_eq!(manager.recv(&mut buffer).unwrap(), 10);
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_by_its_process() {
        let os = |text: &'static str| Some(OsStr::new(text));
        assert_eq!(watchdog(os("60000000"), os("7"), 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(os("60000000"), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(os("60000000"), os("8"), 7), None);
        assert_eq!(watchdog(os("0"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }
}
