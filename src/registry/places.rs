//! Paths: what they expand to, and whether they can be written on this machine.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::problem::{Finding, Problems};
use super::{Paths, Registry};

/// The folders that a path may be relative to.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// What `~` stands for; `None` without an absolute `HOME`.
    pub home: Option<PathBuf>,
    /// The root if `paths.root` is not set.
    pub data: PathBuf,
    pub folder: PathBuf,
}

impl Surroundings {
    /// For a registry in `file`, which is absolute, and this user.
    pub(super) fn of(file: &Path) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
        let base = if cfg!(target_os = "macos") {
            home.as_ref().map(|home| home.join("Library/Application Support"))
        } else {
            std::env::var_os("XDG_DATA_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(|| home.as_ref().map(|home| home.join(".local/share")))
        };
        let data = base.unwrap_or_else(|| folder.clone()).join("mlxctl");
        Self { home, data, folder }
    }

    /// The absolute path of `written`, which may be relative to `base`.
    ///
    /// # Errors
    /// The problem, and what to write instead.
    pub(super) fn expand(&self, written: &str, base: &Path) -> Result<PathBuf, (String, String)> {
        let hint = "use an absolute path, or one below ~/";
        if written.trim().is_empty() {
            return Err(("the path is empty".into(), hint.into()));
        }
        if written.chars().any(char::is_control) {
            return Err(("the path contains a control character".into(), hint.into()));
        }
        let absolute = || "write the absolute path".to_owned();
        // `~` and `$HOME` are expanded as a shell would; other variables are refused, not taken for a folder's name.
        let home = ["~", "${HOME}", "$HOME"].into_iter().find_map(|sign| {
            let rest = written.strip_prefix(sign)?;
            (rest.is_empty() || rest.starts_with('/')).then_some((sign, rest))
        });
        let (sign, rest) = home.unwrap_or(("", written));
        if rest.contains('$') {
            return Err(("variables are not expanded, except `$HOME` at the start".into(), absolute()));
        }
        let path = match (sign, &self.home) {
            ("", _) if written.starts_with('~') => {
                return Err(("another user's `~` is not looked up".into(), absolute()));
            }
            ("", _) => base.join(written),
            (_, Some(home)) => home.join(rest.trim_start_matches('/')),
            (sign, None) => {
                return Err((format!("`{sign}` cannot be expanded: HOME is not set"), absolute()));
            }
        };
        Ok(path.components().filter(|part| *part != Component::CurDir).collect())
    }
}

/// Checks that this user can write to, or create, everything that mlxctl writes to. Creates nothing.
pub(crate) fn check_paths(registry: &Registry) -> Problems {
    let mut findings = unwritable(registry, &|folder| {
        use nix::unistd::{AccessFlags, access};
        access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)
    });
    findings.extend(open_to_others(registry));
    Problems::new(&registry.file, registry.written.text.clone(), findings)
}

/// Checks that no other user can put code or data where mlxctl keeps its own.
pub(crate) fn check_owners(registry: &Registry) -> Problems {
    Problems::new(&registry.file, registry.written.text.clone(), open_to_others(registry))
}

pub(super) fn unwritable(registry: &Registry, access: &dyn Fn(&Path) -> io::Result<()>) -> Vec<Finding> {
    let Paths { root, venv, logs, run, state } = &registry.paths;
    let log_folder = registry.agent.log.parent().unwrap_or(Path::new("/"));
    let wanted: [(&str, &Path); 7] = [
        ("paths.root", root),
        ("paths.venv", venv),
        ("paths.logs", logs),
        ("paths.run", run),
        ("paths.state", state),
        ("agent.log", log_folder),
        ("agent.working_directory", &registry.agent.working_directory),
    ];
    let mut findings: Vec<Finding> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for (key, path) in wanted {
        let (nearest, problem) = obstacle(path, access);
        let Some(problem) = problem else { continue };
        // A closed folder is one problem, however many paths are below it.
        if seen.contains(&nearest) {
            continue;
        }
        seen.push(nearest);
        let message = format!("`{key}` cannot be written: {problem}");
        let hint = "choose a folder of your own, or change its owner";
        findings.push(Finding { span: registry.written.find(key), message, hint: Some(hint.into()) });
    }
    findings
}

/// Our folders that another user can write to or replace: what is in them is run, or believed.
fn open_to_others(registry: &Registry) -> Vec<Finding> {
    let Paths { root, venv, logs, run: _, state } = &registry.paths;
    let wanted = [("paths.root", root), ("paths.venv", venv), ("paths.logs", logs), ("paths.state", state)];
    let mut findings: Vec<Finding> = Vec::new();
    for (key, path) in wanted {
        let Some(problem) = trusted(path).err() else { continue };
        let message = format!("other users can change `{key}`: {problem}");
        // A problem of a folder is not repeated for those below it.
        if findings.iter().any(|known| known.message.ends_with(&problem)) {
            continue;
        }
        let hint = format!(
            "remove that permission, or choose a folder of your own: chmod go-w '{}'",
            path.display()
        );
        findings.push(Finding { span: registry.written.find(key), message, hint: Some(hint) });
    }
    findings
}

/// Checks that only this user (and root) can change what is at `path`, links followed. A folder above it may be
/// writable for everyone if it is sticky, as `/tmp` and `/Users/Shared` are: there users cannot rename what belongs to
/// others.
fn trusted(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(real) = real(path) else { return Ok(()) };
    let me = nix::unistd::getuid().as_raw();
    for (depth, folder) in real.ancestors().enumerate() {
        // What cannot be read is reported by the check of what can be written.
        let Ok(found) = fs_err::metadata(folder) else { continue };
        let (mode, shown) = (found.mode(), folder.display());
        let its_own = depth == 0 && fs_err::metadata(path).is_ok();
        let sticky = mode & 0o1000 != 0;
        if mode & 0o002 != 0 && (its_own || !sticky) {
            return Err(format!("every user can write to {shown} (mode {:o})", mode & 0o7777));
        }
        if !its_own {
            continue;
        }
        if found.uid() != me && found.uid() != 0 {
            return Err(format!("{shown} belongs to {}", user(found.uid())));
        }
        if mode & 0o020 != 0 && !is_private(found.gid(), me) {
            return Err(format!("the group of {shown} can write to it (mode {:o})", mode & 0o7777));
        }
    }
    Ok(())
}

/// The path without links, as far as it exists.
fn real(path: &Path) -> io::Result<PathBuf> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for folder in path.ancestors() {
        match fs_err::canonicalize(folder) {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn user(uid: u32) -> String {
    let found = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    found.map_or_else(|| format!("user {uid}"), |user| user.name)
}

/// Whether a group is this user's alone: many systems give every user a group of the same name and a umask that lets it
/// write.
fn is_private(gid: u32, me: u32) -> bool {
    use nix::unistd::{Group, User};
    let (group, user) = (Group::from_gid(gid.into()), User::from_uid(me.into()));
    let (Ok(Some(group)), Ok(Some(user))) = (group, user) else { return false };
    group.name == user.name && group.mem.iter().all(|member| *member == user.name)
}

/// Says where a dangling link points. Usually the disk in its path is not mounted.
pub(crate) fn dangling(link: &Path) -> String {
    match fs_err::read_link(link) {
        Ok(target) => format!(
            "{} is a link to {}, which does not exist (is its disk mounted?)",
            link.display(),
            target.display()
        ),
        Err(error) => format!("{} cannot be followed: {}", link.display(), plain(&error)),
    }
}

/// The disk below `/Volumes` that a path is on, if it is not mounted: macOS creates and removes these folders itself,
/// and one created by someone else hides the disk once it is mounted.
fn unmounted(path: &Path) -> Option<String> {
    let mut parts = path.strip_prefix("/Volumes").ok()?.components();
    let volume = Path::new("/Volumes").join(parts.next()?);
    let missing =
        matches!(fs_err::symlink_metadata(&volume), Err(error) if error.kind() == io::ErrorKind::NotFound);
    missing.then(|| format!("the disk {} is not mounted", volume.display()))
}

/// The nearest existing folder at or above `path`, and what is wrong with it.
fn obstacle(path: &Path, access: &dyn Fn(&Path) -> io::Result<()>) -> (PathBuf, Option<String>) {
    if let Some(problem) = unmounted(path) {
        return (PathBuf::from("/Volumes"), Some(problem));
    }
    for folder in path.ancestors() {
        let problem = match fs_err::metadata(folder) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && fs_err::symlink_metadata(folder).is_ok() =>
            {
                Some(dangling(folder))
            }
            Ok(found) if !found.is_dir() => Some(format!("{} is a file, not a folder", folder.display())),
            Ok(_) => access(folder).err().map(|error| format!("{}: {}", folder.display(), plain(&error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // Below a file, which is found further up.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
            Err(error) => Some(format!("{}: {}", folder.display(), plain(&error))),
        };
        return (folder.to_owned(), problem);
    }
    (path.to_owned(), Some(format!("no folder above {} exists", path.display())))
}

/// The kind of error in words, without "(os error 13)".
pub(super) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "no permission".into(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".into(),
        io::ErrorKind::NotFound => "no such file".into(),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Surroundings {
        Surroundings { home: Some("/home/me".into()), data: "/data".into(), folder: "/etc/x".into() }
    }

    #[test]
    fn a_tilde_is_home_and_a_relative_path_is_below_its_base() {
        let expand = |text: &str| here().expand(text, Path::new("/base")).unwrap();
        assert_eq!(expand("~"), Path::new("/home/me"));
        assert_eq!(expand("~/x/./y"), Path::new("/home/me/x/y"));
        assert_eq!(expand("logs"), Path::new("/base/logs"));
        assert_eq!(expand("./logs"), Path::new("/base/logs"));
        assert_eq!(expand("/abs"), Path::new("/abs"));
        for written in ["$HOME/x/y", "${HOME}/x/y", "~//x/y"] {
            assert_eq!(expand(written), Path::new("/home/me/x/y"), "{written}");
        }
        for wrong in ["", " ", "~other/x", "a\nb", "$HOMER/x", "$DATA/x", "/a/$HOME/x", "/a/${X}"] {
            assert!(here().expand(wrong, Path::new("/base")).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_closed_folder_is_reported_once() {
        let registry = crate::registry::load::seed();
        let findings = unwritable(&registry, &|_| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].message.starts_with("`paths.root` cannot be written: "), "{findings:?}");
        assert!(findings[0].message.ends_with("no permission"), "{findings:?}");
        assert!(findings[0].span.is_some());
        assert_eq!(unwritable(&registry, &|_| Ok(())), []);
    }

    #[test]
    fn a_link_to_a_missing_disk_is_reported_with_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs_err::os::unix::fs::symlink(folder.path().join("Away/mlx"), &root).unwrap();
        for path in [root.clone(), root.join("below")] {
            let findings = unwritable(&Registry::demo(&path, 8800), &|_| Ok(()));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].message.contains("Away/mlx, which does not exist"), "{findings:?}");
        }
        let findings = unwritable(&Registry::demo(Path::new("/Volumes/Not Here/mlx"), 8800), &|_| Ok(()));
        assert!(findings[0].message.contains("the disk /Volumes/Not Here is not mounted"), "{findings:?}");
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused_and_one_in_a_shared_folder_is_not() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared");
        let root = shared.join("mlx");
        fs_err::create_dir_all(root.join("state")).unwrap();
        let problems = |shared_mode, root_mode, state_mode| {
            let set = |path: &Path, mode| {
                fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            };
            set(&root.join("state"), state_mode);
            set(&root, root_mode);
            set(&shared, shared_mode);
            let findings = open_to_others(&Registry::demo(&root, 8800));
            findings.into_iter().map(|finding| finding.message).collect::<Vec<_>>()
        };
        // As /Users/Shared on every Mac.
        assert_eq!(problems(0o1777, 0o755, 0o755), [""; 0]);
        let open = problems(0o1777, 0o777, 0o755);
        assert!(open.len() == 1 && open[0].starts_with("other users can change `paths.root`"), "{open:?}");
        let open = problems(0o1777, 0o755, 0o1777);
        assert!(open.len() == 1 && open[0].starts_with("other users can change `paths.state`"), "{open:?}");
        let open = problems(0o777, 0o755, 0o755);
        assert!(open.len() == 1 && open[0].contains("every user can write to") && open[0].contains("shared"));
        // What does not exist yet is judged by where it would be created.
        assert_eq!(open_to_others(&Registry::demo(&shared.join("new"), 8800)).len(), 1);
    }

    #[test]
    fn a_file_in_the_way_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs_err::write(&file, "").unwrap();
        let registry = Registry::demo(&file.join("below"), 8800);
        let findings = unwritable(&registry, &|_| Ok(()));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("is a file, not a folder"), "{findings:?}");
    }
}
