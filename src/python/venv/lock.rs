//! A lock for one setup at a time, which an installer keeps after its setup was killed.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};

use super::SetupError;

/// The path `.<name>.<suffix>` next to the environment.
pub(super) fn beside(venv: &Path, suffix: &str) -> PathBuf {
    let name = venv.file_name().unwrap_or_default().to_string_lossy();
    venv.with_file_name(format!(".{name}.{suffix}"))
}

/// Waits until no other setup of this environment runs; calls `waiting` once if it has to.
///
/// The lock belongs to the open file, which the installer inherits: if setup is killed and pip keeps running, the next
/// setup waits for pip instead of removing its folder.
pub(super) fn take(venv: &Path, waiting: &mut dyn FnMut()) -> Result<Flock<File>, SetupError> {
    let path = beside(venv, "mlxctl-lock");
    let what = format!("cannot lock {}", path.display());
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent)
            .map_err(SetupError::io(format!("cannot make {}", parent.display())))?;
    }
    let file = File::options().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(SetupError::io(&*what))?;
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            waiting();
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, error)| SetupError::io(&*what)(error.into()))?
        }
        Err((_, error)) => return Err(SetupError::io(&*what)(error.into())),
    };
    fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))
        .map_err(|error| SetupError::io(what)(error.into()))?;
    Ok(lock)
}
