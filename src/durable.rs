//! Writes that survive a power cut: a file is replaced as a whole or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;

/// Prefix of files that have not been renamed into place yet.
const PREFIX: &str = ".mlxctl-";

/// Older ones were left behind by a writer that was killed.
const OLD: Duration = Duration::from_secs(3600);

/// Removes leftovers of killed writers. Best effort: they are only untidy.
pub(crate) fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let age = entry.metadata().and_then(|found| found.modified()).map(|written| written.elapsed());
        if ours && matches!(age, Ok(Ok(age)) if age > OLD) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Replaces the content of `file` with `bytes`, mode 0600: writes and syncs a new file next to it, renames it, and
/// syncs the folder, so that the rename itself is on disk.
///
/// # Errors
/// The system's own; then the old content is still there.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(file, bytes, Permissions::from_mode(0o600))
}

/// As [`replace`]; the file, which must exist, keeps its mode.
///
/// # Errors
/// The system's own; then the old content is still there.
pub(crate) fn rewrite(file: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(file, bytes, fs::metadata(file)?.permissions())
}

fn replace_with(file: &Path, bytes: &[u8], permissions: Permissions) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut fresh = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
    fresh.write_all(bytes)?;
    fresh.as_file().set_permissions(permissions)?;
    unless_it_cannot(fresh.as_file().sync_all())?;
    fresh.persist(file)?;
    sync_folder(folder)
}

/// Syncs the renames in a folder to disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    unless_it_cannot(fs::File::open(folder)?.sync_all())
}

/// Ignores that a file system cannot sync: fsync(2) says EINVAL, and macOS's F_FULLFSYNC says ENOTSUP or ENOTTY on
/// volumes without it (SMB, exFAT).
fn unless_it_cannot(synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP | libc::ENOTTY)) => {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_cannot_sync_is_written_all_the_same() {
        let failed = |code| unless_it_cannot(Err(io::Error::from_raw_os_error(code)));
        for code in [libc::EINVAL, libc::ENOTSUP, libc::ENOTTY] {
            assert!(failed(code).is_ok(), "{code}");
        }
        for code in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
            assert!(failed(code).is_err(), "{code}");
        }
    }

    #[test]
    fn only_old_leftovers_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, age: Duration| {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
        };
        make(".mlxctl-old", OLD * 2);
        make(".mlxctl-new", Duration::ZERO);
        make("keys.json", OLD * 2);
        sweep(folder.path());
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".mlxctl-new", "keys.json"]);
    }

    #[test]
    fn a_replaced_file_is_whole_and_a_failed_replacement_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        replace(&file, b"one").unwrap();
        replace(&file, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        let into_a_folder = folder.path().join("d");
        std::fs::create_dir(&into_a_folder).unwrap();
        replace(&into_a_folder, b"x").unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nor after a failure");
    }
}
