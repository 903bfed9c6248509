//! Paths: what a written one means, and whether the machine lets us write there.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::problem::{Finding, Problems};
use super::{Paths, Registry};

/// What a path may be relative to.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// `~`.
    pub home: Option<PathBuf>,
    /// Where everything lies when `paths.root` is not written.
    pub data: PathBuf,
    /// The registry file's own folder.
    pub folder: PathBuf,
}

impl Surroundings {
    /// Of a registry in `file`, for this user. `file` is absolute.
    pub fn of(file: &Path) -> Self {
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

    /// The absolute path that `written` means below `base`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn expand(&self, written: &str, base: &Path) -> Result<PathBuf, (String, String)> {
        let hint = "an absolute path, or one below ~/";
        if written.trim().is_empty() {
            return Err(("the path is empty".into(), hint.into()));
        }
        if written.chars().any(char::is_control) {
            return Err(("the path holds a control character".into(), hint.into()));
        }
        let path = match written.strip_prefix('~') {
            None => base.join(written),
            Some(rest) if rest.is_empty() || rest.starts_with('/') => match &self.home {
                Some(home) => home.join(rest.trim_start_matches('/')),
                None => {
                    return Err((
                        "`~` means nothing here: HOME is not set".into(),
                        "write the absolute path".into(),
                    ));
                }
            },
            Some(_) => {
                return Err(("another user's `~` is not looked up".into(), "write the absolute path".into()));
            }
        };
        Ok(path.components().filter(|part| *part != Component::CurDir).collect())
    }
}

/// Whether everything that mlxctl writes to can be written to, or made, by this user on this machine. Creates nothing.
#[must_use]
pub fn check_paths(registry: &Registry) -> Problems {
    let findings = unwritable(registry, &|folder| {
        use nix::unistd::{AccessFlags, access};
        access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)
    });
    Problems::new(&registry.file, registry.written.text.clone(), findings)
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
        // One folder that is closed is one problem, however many paths lie below it.
        if seen.contains(&nearest) {
            continue;
        }
        seen.push(nearest);
        let message = format!("`{key}` cannot be written: {problem}");
        let hint = "name a folder of your own, or change its owner";
        findings.push(Finding { span: registry.written.find(key), message, hint: Some(hint.into()) });
    }
    findings
}

/// The nearest folder at or above `path` that is there, and what is wrong with it.
fn obstacle(path: &Path, access: &dyn Fn(&Path) -> io::Result<()>) -> (PathBuf, Option<String>) {
    for folder in path.ancestors() {
        let problem = match fs_err::metadata(folder) {
            Ok(found) if !found.is_dir() => Some(format!("{} is a file, not a folder", folder.display())),
            Ok(_) => access(folder).err().map(|error| format!("{}: {}", folder.display(), plain(&error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // Below a file: the file itself is found further up.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
            Err(error) => Some(format!("{}: {}", folder.display(), plain(&error))),
        };
        return (folder.to_owned(), problem);
    }
    (path.to_owned(), Some(format!("nothing above {} is there", path.display())))
}

/// The kind of failure, in words, without "(os error 13)".
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
    fn a_tilde_is_home_and_a_relative_path_lies_below_its_base() {
        let expand = |text: &str| here().expand(text, Path::new("/base")).unwrap();
        assert_eq!(expand("~"), Path::new("/home/me"));
        assert_eq!(expand("~/x/./y"), Path::new("/home/me/x/y"));
        assert_eq!(expand("logs"), Path::new("/base/logs"));
        assert_eq!(expand("./logs"), Path::new("/base/logs"));
        assert_eq!(expand("/abs"), Path::new("/abs"));
        for wrong in ["", " ", "~other/x", "a\nb"] {
            assert!(here().expand(wrong, Path::new("/base")).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn one_closed_folder_is_one_problem() {
        let registry = crate::registry::load::seed();
        let findings = unwritable(&registry, &|_| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].message.starts_with("`paths.root` cannot be written: "), "{findings:?}");
        assert!(findings[0].message.ends_with("no permission"), "{findings:?}");
        assert!(findings[0].span.is_some());
        assert_eq!(unwritable(&registry, &|_| Ok(())), []);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs_err::write(&file, "").unwrap();
        let registry = Registry::demo(&file.join("below"), 8800);
        let findings = unwritable(&registry, &|_| Ok(()));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("is a file, not a folder"), "{findings:?}");
    }
}
