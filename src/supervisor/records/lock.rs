//! One supervisor per instance: a lock on `<run>/mlxctl.lock`, which the kernel releases when its holder dies.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for the lock of a dead holder: an exec step holds it until it has written its record.
const INHERITED: Duration = Duration::from_secs(10);

/// The held lock. Dropping it only closes this descriptor: an exec step may have another one.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Takes the lock, waiting for exec steps that a dead holder left: once they release it, what they started is recorded.
    pub(crate) fn take(run: &Path) -> Result<Self, LockError> {
        let began = Instant::now();
        loop {
            match try_take(run) {
                Err(LockError::Held(holder)) if began.elapsed() < INHERITED && !lives(&holder) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                taken => return taken,
            }
        }
    }

    /// Duplicates the descriptor. The lock is held until the last one is closed, by whichever process.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub(crate) fn share(&self) -> io::Result<File> {
        self.0.try_clone()
    }
}

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another supervisor has it, with its description ("pid 4711, version 0.1.0").
    #[error("another supervisor of this instance is running: {0}")]
    Held(String),
    /// The file could not be opened, locked or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Whether the process that wrote `holder` is alive; true also if the text cannot be parsed.
fn lives(holder: &str) -> bool {
    let pid = holder.strip_prefix("pid ").and_then(|rest| rest.split(',').next()?.parse().ok());
    pid.is_none_or(|pid| !matches!(crate::host::identify(pid), Ok(None)))
}

/// Takes the lock and writes the holder into the file. Uses `flock`, not `fcntl`: a POSIX lock is lost as soon as the
/// process closes any descriptor of the file (fcntl(2)).
fn try_take(run: &Path) -> Result<Lock, LockError> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(run.join("mlxctl.lock"))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "pid {}, version {}", std::process::id(), env!("CARGO_PKG_VERSION"))?;
            Ok(Lock(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            Err(LockError::Held(holder))
        }
        Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_supervisor_learns_who_has_the_lock_and_a_dropped_lock_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        let Err(LockError::Held(holder)) = Lock::take(folder.path()) else { panic!("two holders") };
        assert!(holder.contains(&format!("pid {}", std::process::id())));
        drop(lock);
        Lock::take(folder.path()).unwrap();
    }

    #[test]
    fn the_lock_of_a_dead_holder_is_waited_for_while_an_exec_step_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        let shared = lock.share().unwrap();
        drop(lock);
        // No process has this pid: pid_max is lower.
        std::fs::write(folder.path().join("mlxctl.lock"), format!("pid {}, version 0", i32::MAX)).unwrap();
        assert!(matches!(try_take(folder.path()), Err(LockError::Held(_))));
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(shared);
        });
        Lock::take(folder.path()).unwrap();
        release.join().unwrap();
    }
}
