//! kqueue's `EVFILT_PROC` (kqueue(2)), which reports the end of any process of this user as an event.

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

/// The event comes when a process begins to exit. It can be waited for once its memory has been torn down.
const TEARDOWN_POLL: Duration = Duration::from_millis(5);

/// A kqueue with the raw descriptor that tokio needs.
struct Queue(Kqueue);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

pub(crate) fn watch(who: Identity) -> io::Result<ExitWatch> {
    let queue = Kqueue::new()?;
    let registered = match register(&queue, who.pid, FilterFlag::NOTE_EXITSTATUS) {
        // We may not signal it, so only its end is reported, not how it ended.
        Err(Errno::EPERM | Errno::EACCES) => register(&queue, who.pid, FilterFlag::empty()),
        registered => registered,
    };
    // Checked after registering: the event refers to whichever process had the pid then.
    let same = process::info(who.pid)?.is_some_and(|info| info.started == who.started);
    match registered {
        // Reused, or gone.
        _ if !same => return Ok(Box::pin(std::future::ready(Exit::Unknown))),
        // It has ended; if it was a child, it has not been waited for yet.
        Err(Errno::ESRCH) => return Ok(Box::pin(reap(who.pid, Exit::Unknown))),
        Err(error) => return Err(error.into()),
        Ok(()) => {}
    }
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "the promise that the descriptor stays open is ours")]
    // SAFETY: the queue owns its descriptor, which keeps its number and is open until dropped.
    let queue = unsafe { AsyncFd::register_with_interest(Queue(queue), Interest::READABLE) }?;
    Ok(Box::pin(async move {
        if queue.readable().await.is_err() {
            // The runtime is being torn down: nothing will poll this again.
            return std::future::pending().await;
        }
        let told = told(&queue.get_ref().0);
        drop(queue);
        reap(who.pid, told).await
    }))
}

/// Takes the queue's only event, which is already there, and returns how the process ended.
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
    // Without room for events the call does not wait, and an error of the change becomes the call's.
    queue.kevent(&[event], &mut [], None).map(|_| ())
}

/// Waits for a process that has begun to exit, and returns how it ended; `told` is what its event said.
async fn reap(pid: i32, told: Exit) -> Exit {
    loop {
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Exit::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Exit::Signal(signal as i32),
            // Not our child, so only the event says how it ended.
            Err(Errno::ECHILD) => return told,
            _ => tokio::time::sleep(TEARDOWN_POLL).await,
        }
    }
}
