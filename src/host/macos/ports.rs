//! Which processes listen on a port.

use std::process::{Command, Stdio};

use super::super::darwin::{self, SOCKET_FDINFO};
use super::process;
use crate::host::seam::{Identity, PortHolder};

/// Other users' sockets cannot be listed, so an attempt to bind shows whether another process listens.
pub(crate) fn owns(who: Identity, port: u16) -> Option<bool> {
    if process::info_of(who).is_ok() && process::family(who.pid).into_iter().any(|pid| listens(pid, port)) {
        return Some(true);
    }
    darwin::taken::taken(port).then_some(false)
}

pub(crate) fn holders(port: u16) -> Vec<PortHolder> {
    let mut lsof = Command::new("/usr/sbin/lsof");
    // `-nP` looks up no names; `+c0` prints whole command names.
    lsof.args(["-nP", "+c0", &format!("-iTCP:{port}"), "-sTCP:LISTEN", "-Fpc"]).stdin(Stdio::null());
    // It exits with 1 if nothing listens, or if it may not see everything.
    let ended = lsof.output();
    ended.map(|ended| darwin::lsof::all(&String::from_utf8_lossy(&ended.stdout))).unwrap_or_default()
}

#[expect(unsafe_code, reason = "libproc has no safe wrapper")]
fn listens(pid: i32, port: u16) -> bool {
    /// From sys/proc_info.h; not in libc.
    const PROC_PIDFDSOCKETINFO: libc::c_int = 3;
    let one = size_of::<libc::proc_fdinfo>();
    // SAFETY: without a buffer it returns the size that one needs, with room to spare.
    let size = unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDLISTFDS, 0, std::ptr::null_mut(), 0) };
    let room = usize::try_from(size).unwrap_or(0) / one;
    let mut descriptors = vec![libc::proc_fdinfo { proc_fd: 0, proc_fdtype: 0 }; room];
    let size = libc::c_int::try_from(room * one).unwrap_or(0);
    // SAFETY: the buffer has the given size.
    let got =
        unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDLISTFDS, 0, descriptors.as_mut_ptr().cast(), size) };
    descriptors.truncate(usize::try_from(got).unwrap_or(0) / one);
    let sockets = descriptors.iter().filter(|fd| fd.proc_fdtype.cast_signed() == libc::PROX_FDTYPE_SOCKET);
    sockets.into_iter().any(|descriptor| {
        let mut info = [0u8; SOCKET_FDINFO];
        let size = libc::c_int::try_from(SOCKET_FDINFO).unwrap_or(0);
        // SAFETY: the buffer has the given size.
        let got = unsafe {
            libc::proc_pidfdinfo(
                pid,
                descriptor.proc_fd,
                PROC_PIDFDSOCKETINFO,
                info.as_mut_ptr().cast(),
                size,
            )
        };
        // Another size would mean another layout.
        got == size && darwin::listens(&info, port)
    })
}
