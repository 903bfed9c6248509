//! Several environments at one path: `<venv>` is the environment itself until the first upgrade, and then a link to the
//! current one.
//!
//! ```text
//! mlx_venv              the folder, or a link to `.mlx_venv.2`
//! .mlx_venv.1           an environment; before the first upgrade a link to `mlx_venv`, its alias
//! .mlx_venv.previous    a link to the one before
//! ```
//!
//! Backends use the numbered name. Python keeps importing from the path it was started with; with the name that is
//! switched, it would mix two versions.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::symlink;

use super::lock::beside;

/// The name of the environment's path, from the path itself or one of its generations.
pub(super) fn name(venv: &Path) -> String {
    let name = file_name(venv);
    let numbered = name.strip_prefix('.').and_then(|rest| rest.rsplit_once('.'));
    match numbered {
        Some((place, number)) if number.parse::<u32>().is_ok() => place.to_owned(),
        _ => name,
    }
}

/// The interpreter, by the environment's numbered name if it has one.
pub(super) fn python(venv: &Path) -> PathBuf {
    super::python(&current(venv).unwrap_or_else(|| venv.to_owned()))
}

/// The numbered name of the current environment: the target of the link, or the folder's alias.
pub(super) fn current(venv: &Path) -> Option<PathBuf> {
    target(venv).or_else(|| alias(venv))
}

/// The environment before the current one.
pub(super) fn previous(venv: &Path) -> Option<PathBuf> {
    target(&beside(venv, "previous")).filter(|path| path.is_dir())
}

/// Creates the folder's alias, unless it has one or is a generation itself.
pub(super) fn give_alias(venv: &Path) -> io::Result<()> {
    let is_generation = name(venv) != file_name(venv);
    if is_generation || target(venv).is_some() || alias(venv).is_some() {
        return Ok(());
    }
    symlink(file_name(venv), free(venv))
}

/// The next free numbered name.
pub(super) fn free(venv: &Path) -> PathBuf {
    let last = all(venv).into_iter().map(|(number, _)| number).max().unwrap_or(0);
    beside(venv, &last.saturating_add(1).to_string())
}

/// Makes `next` the current environment and records the one before, which stays complete under its numbered name. The
/// first switch removes the path itself for an instant; the numbered name always exists.
pub(super) fn switch(venv: &Path, next: &Path) -> io::Result<()> {
    let link = beside(venv, "previous");
    match target(venv) {
        Some(current) => point(&link, &current)?,
        None if venv.is_dir() => {
            let (second, was_alias) = match alias(venv) {
                Some(alias) => (alias, true),
                None => (free(venv), false),
            };
            // First, so that the way back is known even if this is interrupted.
            point(&link, &second)?;
            if was_alias {
                fs::remove_file(&second)?;
            }
            fs::rename(venv, &second)?;
        }
        None => {}
    }
    point(venv, next)
}

/// Removes all generations that are not in use, except the current one and the one before.
pub(super) fn prune(venv: &Path, in_use: &dyn Fn(&Path) -> bool) {
    let keep = [current(venv), previous(venv)];
    for (_, path) in all(venv) {
        if keep.iter().flatten().any(|kept| *kept == path) || in_use(&path) {
            continue;
        }
        // Best effort: the next upgrade tries again.
        let _ = discard(&path);
    }
}

/// Removes a generation and its marker of an unfinished setup.
pub(super) fn discard(path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        fs::remove_file(path)?;
    } else if path.exists() {
        fs::remove_dir_all(path)?;
    }
    match fs::remove_file(beside(path, "mlxctl-building")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Atomically makes `link` point to `to` in the same folder.
fn point(link: &Path, to: &Path) -> io::Result<()> {
    let fresh = beside(link, "new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(file_name(to), &fresh)?;
    fs::rename(fresh, link)
}

/// The target of a link; `None` if it is not a link.
fn target(link: &Path) -> Option<PathBuf> {
    let target = fs::read_link(link).ok()?;
    Some(link.parent().unwrap_or(Path::new("")).join(target))
}

/// The numbered link to the folder at the path, if there is one.
fn alias(venv: &Path) -> Option<PathBuf> {
    all(venv).into_iter().map(|(_, path)| path).find(|path| target(path).as_deref() == Some(venv))
}

/// All numbered names, with their numbers.
fn all(venv: &Path) -> Vec<(u32, PathBuf)> {
    let prefix = format!(".{}.", file_name(venv));
    let entries = venv.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten();
    let numbered = entries.filter_map(Result::ok).filter_map(|entry| {
        let number = entry.file_name().to_string_lossy().strip_prefix(&prefix)?.parse().ok()?;
        Some((number, entry.path()))
    });
    numbered.collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(path: &Path, version: &str) {
        fs::create_dir_all(path.join("bin")).unwrap();
        fs::write(path.join("bin/python"), version).unwrap();
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path.join("bin/python")).unwrap()
    }

    #[test]
    fn a_generation_goes_by_the_name_of_its_place() {
        assert_eq!(name(Path::new("/r/mlx_venv")), "mlx_venv");
        assert_eq!(name(Path::new("/r/.mlx_venv.12")), "mlx_venv");
        assert_eq!(name(Path::new("/r/.venv")), ".venv");
    }

    #[test]
    fn what_runs_under_its_own_name_keeps_its_files_through_switches() {
        let root = tempfile::tempdir().unwrap();
        let venv = root.path().join("mlx_venv");
        environment(&venv, "old");
        give_alias(&venv).unwrap();
        let first = current(&venv).unwrap();
        assert_eq!(first, root.path().join(".mlx_venv.1"));
        let second = free(&venv);
        environment(&second, "new");
        switch(&venv, &second).unwrap();
        assert_eq!((read(&venv), read(&first)), ("new".into(), "old".into()));
        assert_eq!(current(&venv), Some(second.clone()));
        let back = previous(&venv).unwrap();
        switch(&venv, &back).unwrap();
        assert_eq!((read(&venv), read(&first), read(&second)), ("old".into(), "old".into(), "new".into()));
        assert_eq!(previous(&venv), Some(second));
    }

    #[test]
    fn only_the_current_and_the_one_before_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let venv = root.path().join("mlx_venv");
        environment(&venv, "1");
        give_alias(&venv).unwrap();
        for version in ["2", "3", "4"] {
            let next = free(&venv);
            environment(&next, version);
            switch(&venv, &next).unwrap();
            prune(&venv, &|path| path.ends_with(".mlx_venv.1"));
        }
        let mut left: Vec<u32> = all(&venv).into_iter().map(|(number, _)| number).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 3, 4], "the first one is in use");
    }

    #[test]
    fn a_folder_without_a_second_name_is_switched_too() {
        let root = tempfile::tempdir().unwrap();
        let venv = root.path().join("mlx_venv");
        environment(&venv, "by hand");
        let next = free(&venv);
        environment(&next, "new");
        switch(&venv, &next).unwrap();
        assert_eq!((read(&venv), read(&previous(&venv).unwrap())), ("new".into(), "by hand".into()));
    }

    /// The real Python: a running process keeps it, and a shell gets the new one.
    #[test]
    fn a_running_python_imports_from_its_own_environment_after_a_switch() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let test_venv = std::env::var_os("MLXCTL_TEST_VENV").expect("run the tests with scripts/test");
        let root = tempfile::tempdir().unwrap();
        let venv = root.path().join("mlx_venv");
        let make = |path: &Path, word: &str| {
            let made = Command::new(Path::new(&test_venv).join("bin/python"))
                .args(["-m", "venv", "--without-pip", "--prompt", &name(path)])
                .arg(path)
                .status();
            assert!(made.unwrap().success());
            let lib = fs::read_dir(path.join("lib")).unwrap().next().unwrap().unwrap().path();
            fs::write(lib.join("site-packages/word.py"), format!("print({word:?})")).unwrap();
        };
        make(&venv, "old");
        give_alias(&venv).unwrap();
        let mut running = Command::new(python(&venv))
            .args(["-c", "input(); import word"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let next = free(&venv);
        make(&next, "new");
        switch(&venv, &next).unwrap();
        running.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(running.wait_with_output().unwrap().stdout, b"old\n");
        let shell = |place: &Path| {
            let script =
                format!(". '{}'/bin/activate && python -c 'import word' && echo \"$PS1\"", place.display());
            let output = Command::new("bash").args(["-c", &script]).env("PS1", "$ ").output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let new = shell(&venv);
        assert!(new.starts_with("new\n") && new.contains("(mlx_venv)"), "{new}");
        switch(&venv, &previous(&venv).unwrap()).unwrap();
        let old = shell(&venv);
        assert!(old.starts_with("old\n") && old.contains("(mlx_venv)"), "{old}");
    }
}
