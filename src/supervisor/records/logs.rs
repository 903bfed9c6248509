//! Bounds rotated logs, and rotates the supervisor's own log.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::backend::logs;
use crate::backend::logs::Aside;

/// Cuts rotated logs down, on another thread, since after a burst that may take a while. Usually costs a few `stat`s.
pub(crate) fn trim(log: PathBuf, which: Aside) {
    if !logs::oversized(&log, which) {
        return;
    }
    tokio::task::spawn_blocking(move || {
        if let Err(error) = logs::trim(&log, which) {
            tracing::warn!(%error, "a large rotated log could not be cut down");
        }
    });
}

/// Rotates our own log if stdout or stderr go there: launchd opens it only once, at the start.
pub(crate) fn rotate_own(log: &Path) -> std::io::Result<()> {
    if !logs::too_large(log) {
        return Ok(());
    }
    let there = fs_err::metadata(log)?;
    let is_there = |fd: std::io::Result<std::os::fd::OwnedFd>| {
        fd.and_then(|fd| std::fs::File::from(fd).metadata())
            .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    };
    use std::os::fd::AsFd;
    let stdout = is_there(std::io::stdout().as_fd().try_clone_to_owned());
    let stderr = is_there(std::io::stderr().as_fd().try_clone_to_owned());
    if !stdout && !stderr {
        return Ok(());
    }
    logs::rotate(log)?;
    let fresh = fs_err::OpenOptions::new().create(true).append(true).open(log)?;
    if stdout {
        nix::unistd::dup2_stdout(&fresh)?;
    }
    if stderr {
        nix::unistd::dup2_stderr(&fresh)?;
    }
    trim(log.to_owned(), Aside::Old);
    Ok(())
}
