//! Paths of the sockets, and how a client finds them.
//!
//! Both ends compute the same path from the registry's `run` folder alone, never from the environment: launchd,
//! ssh and a terminal do not agree on `TMPDIR`.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The longest path of a Unix socket, bytes: `sun_path` has 104 on macOS (sys/un.h) and 108 on Linux (unix(7)),
/// the last one a NUL.
pub(crate) const SOCKET_PATH_MAX: usize = 103;

/// The control API's socket: `<run>/mlxctl.sock`, or a short path if that is too long.
pub fn socket_path(run: &Path) -> PathBuf {
    fitting(run, "mlxctl.sock")
}

/// The launcher's socket of `model`: `<run>/<model>.sock`, or a short path if that is too long.
pub(crate) fn link_path(run: &Path, model: &str) -> PathBuf {
    fitting(run, &format!("{model}.sock"))
}

/// The folder used when paths of sockets in `run` are too long: `/tmp/mlxctl-UID-HASH`.
pub(crate) fn short_folder(run: &Path) -> PathBuf {
    PathBuf::from(format!("/tmp/mlxctl-{}-{}", owner(run), hash(run.as_os_str().as_bytes())))
}

/// uid of the user whose supervisor has its sockets in `run`: this user; for root, the folder's owner.
pub(crate) fn owner(run: &Path) -> u32 {
    let me = nix::unistd::getuid().as_raw();
    owner_for(me, std::fs::metadata(run).ok().map(|folder| folder.uid()))
}

fn owner_for(me: u32, folder: Option<u32>) -> u32 {
    folder.filter(|_| me == 0).unwrap_or(me)
}

/// Whether the supervisor of uid `me` answers uid `peer`.
pub(crate) fn may_ask(peer: u32, me: u32) -> bool {
    peer == me || peer == 0
}

/// Creates the folder of `socket`, for this user alone (0700).
///
/// # Errors
/// `PermissionDenied` if it exists and is a link, another user's, or open to others, because anyone can create it in
/// `/tmp` first. Otherwise the system's own.
pub(crate) fn make_folder(socket: &Path) -> io::Result<()> {
    let Some(folder) = socket.parent() else { return Ok(()) };
    match std::fs::DirBuilder::new().mode(0o700).recursive(false).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let found = std::fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != nix::unistd::getuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} must be a folder of this user with mode 0700", folder.display()),
        ));
    }
    Ok(())
}

/// Records that the supervisor of `config` has its sockets in `run`, for [`announced`].
pub(crate) fn announce(config: &Path, run: &Path) -> io::Result<()> {
    let note = note_path(config);
    if let Some(folder) = note.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = note.with_extension("new");
    std::fs::write(&fresh, run.as_os_str().as_bytes())?;
    std::fs::rename(fresh, note)
}

/// The `run` folder that the last supervisor of `config` recorded: finds a running supervisor while the registry cannot
/// be read.
pub(crate) fn announced(config: &Path) -> Option<PathBuf> {
    let bytes = std::fs::read(note_path(config)).ok()?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))).filter(|run| run.is_absolute())
}

fn note_path(config: &Path) -> PathBuf {
    let absolute = std::path::absolute(config).unwrap_or_else(|_| config.to_path_buf());
    crate::folders::cache().join("instances").join(hash(absolute.as_os_str().as_bytes()))
}

fn fitting(run: &Path, name: &str) -> PathBuf {
    let wanted = run.join(name);
    if fits(&wanted) {
        return wanted;
    }
    let short = short_folder(run).join(name);
    if fits(&short) {
        return short;
    }
    short_folder(run).join(format!("{}.sock", hash(name.as_bytes())))
}

fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_MAX
}

/// The first 64 bits of SHA-256 as 16 hexadecimal digits.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_lie_in_run_while_their_paths_fit() {
        let run = Path::new("/Users/Shared/ganuda/run");
        assert_eq!(socket_path(run), run.join("mlxctl.sock"));
        assert_eq!(link_path(run, "32b"), run.join("32b.sock"));
        let longest = PathBuf::from(format!("/{}", "r".repeat(SOCKET_PATH_MAX - "/mlxctl.sock".len() - 1)));
        assert_eq!(socket_path(&longest), longest.join("mlxctl.sock"));
    }

    #[test]
    fn no_socket_has_a_path_that_is_too_long() {
        let long = PathBuf::from(format!("/{}", "r".repeat(SOCKET_PATH_MAX)));
        let other = PathBuf::from(format!("/{}", "s".repeat(SOCKET_PATH_MAX)));
        for path in [socket_path(&long), link_path(&long, "32b"), link_path(&long, &"m".repeat(200))] {
            assert!(fits(&path), "{}", path.display());
            assert!(path.starts_with("/tmp"), "{}", path.display());
        }
        assert_ne!(socket_path(&long), socket_path(&other));
        assert_ne!(link_path(&long, &"m".repeat(200)), link_path(&long, &"m".repeat(201)));
    }

    #[test]
    fn root_may_ask_every_supervisor_and_is_told_by_the_folder_who_has_to_answer() {
        assert!(may_ask(501, 501) && may_ask(0, 501) && may_ask(0, 0));
        assert!(!may_ask(502, 501) && !may_ask(501, 0));
        assert_eq!(owner_for(501, Some(502)), 501, "whoever put a folder there");
        assert_eq!(owner_for(0, Some(501)), 501);
        assert_eq!(owner_for(0, None), 0);
        let here = tempfile::tempdir().unwrap();
        assert_eq!(owner(here.path()), nix::unistd::getuid().as_raw());
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        make_folder(&run.join("x.sock")).unwrap();
        make_folder(&run.join("x.sock")).unwrap();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(make_folder(&run.join("x.sock")).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert_eq!(make_folder(&link.join("x.sock")).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
