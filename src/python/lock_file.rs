//! What is installed, to the last package, in a form that pip and uv take: `pip install -r python.lock.txt`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The file's name in the state folder: it describes this machine, so it does not lie beside the registry.
pub(crate) const NAME: &str = "python.lock.txt";

/// Writes the set down, whole or not at all; answers with the file's path. One that says so already stays.
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
    let mut file = tempfile::NamedTempFile::new_in(state)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
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
