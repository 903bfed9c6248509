//! kqueue's `EVFILT_PROC` (kqueue(2)): the end of any process of this user as an event.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::darwin;
use super::process;
use crate::host::seam::{Exit, ExitWatch, Identity};

/// The event comes when a process begins to exit; until it can be waited for, its memory is torn down.
const TEARDOWN_POLL: Duration = Duration::from_millis(5);

/// A kqueue for tokio, which wants a raw descriptor.
struct Queue(Kqueue);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// See [`crate::host::seam::Host::watch`].
pub(crate) fn watch(who: Identity) -> io::Result<ExitWatch> {
    let queue = Kqueue::new()?;
    let registered = match register(&queue, who.pid, FilterFlag::NOTE_EXITSTATUS) {
        // Not ours to signal: its end is still told, only not how.
        Err(Errno::EPERM | Errno::EACCES) => register(&queue, who.pid, FilterFlag::empty()),
        registered => registered,
    };
    // Asked once it is registered: from now on the event stands for whoever has the pid at this moment.
    let same = process::info(who.pid)?.is_some_and(|info| info.started == who.started);
    match registered {
        // A stranger, or nobody.
        _ if !same => return Ok(Box::pin(std::future::ready(Exit::Unknown))),
        // Gone, and if it was a child, not waited for yet.
        Err(Errno::ESRCH) => return Ok(Box::pin(reap(who.pid, Exit::Unknown))),
        Err(error) => return Err(error.into()),
        Ok(()) => {}
    }
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "the promise that the descriptor stays open is ours")]
    // SAFETY: the queue owns its descriptor, which has the same number and is open until it is dropped with the rest.
    let queue = unsafe { AsyncFd::register_with_interest(Queue(queue), Interest::READABLE) }?;
    Ok(Box::pin(async move {
        if queue.readable().await.is_err() {
            // The runtime is being torn down: nothing is known, and nothing will ask.
            return std::future::pending().await;
        }
        let told = told(&queue.get_ref().0);
        drop(queue);
        reap(who.pid, told).await
    }))
}

/// What the one event in the queue's life says of the end; at once, for it is there.
fn told(queue: &Kqueue) -> Exit {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut events = [KEvent::new(0, EventFilter::EVFILT_PROC, EvFlags::empty(), FilterFlag::empty(), 0, 0)];
    let [event] = &mut events;
    match queue.kevent(&[], std::slice::from_mut(event), Some(now)) {
        Ok(1) if event.fflags().contains(FilterFlag::NOTE_EXITSTATUS) => {
            darwin::exit(i64::try_from(event.data()).unwrap_or(0))
        }
        _ => Exit::Unknown,
    }
}

fn register(queue: &Kqueue, pid: i32, more: FilterFlag) -> nix::Result<()> {
    let ident = usize::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let flags = EvFlags::EV_ADD | EvFlags::EV_ENABLE | EvFlags::EV_ONESHOT;
    let event = KEvent::new(ident, EventFilter::EVFILT_PROC, flags, FilterFlag::NOTE_EXIT | more, 0, 0);
    // Without room for events nothing is waited for, and an error of the change is the call's own.
    queue.kevent(&[event], &mut [], None).map(|_| ())
}

/// How a process ended that has begun to; `told`: what its event said.
async fn reap(pid: i32, told: Exit) -> Exit {
    loop {
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Exit::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Exit::Signal(signal as i32),
            // Not a child of ours, so that the event's word is all there is.
            Err(Errno::ECHILD) => return told,
            _ => tokio::time::sleep(TEARDOWN_POLL).await,
        }
    }
}
