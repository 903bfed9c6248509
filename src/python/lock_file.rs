//! A list of all installed packages for pip and uv: `pip install -r python.lock.txt`.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable;

/// The file's name in the state folder. It describes this machine, so it is not kept next to the registry.
pub(crate) const NAME: &str = "python.lock.txt";

/// Writes the list unless the file already has this content; returns its path.
pub(crate) fn write(state: &Path, resolved: &[String]) -> io::Result<PathBuf> {
    let path = state.join(NAME);
    let mut text =
        "# What mlxctl setup installed and verified; written by every setup, upgrade and rollback.\n"
            .to_owned();
    for package in resolved {
        text.push_str(package);
        text.push('\n');
    }
    if fs_err::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(path);
    }
    fs_err::create_dir_all(state)?;
    durable::replace(&path, text.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_has_a_line_that_an_installer_reads() {
        let state = tempfile::tempdir().unwrap();
        let path =
            write(&state.path().join("state"), &["mlx==0.32.4".into(), "mlx-lm==0.32.2".into()]).unwrap();
        let text = fs_err::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["mlx==0.32.4", "mlx-lm==0.32.2"]);
        assert_eq!(write(&state.path().join("state"), &["mlx==0.32.4".into()]).unwrap(), path);
        assert!(!fs_err::read_to_string(&path).unwrap().contains("mlx-lm"));
    }
}
