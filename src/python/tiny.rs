//! The built-in tiny model: made by the environment's own mlx_lm, once per user and version of the script.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::process;
use super::venv::Environment;

/// Makes the model: `python -c SCRIPT <folder> [--hidden N] [--layers N] [--untrained] …`.
pub(crate) const SCRIPT: &str = include_str!("tiny_model.py");

/// The files of a model; none may be missing or empty.
const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot make the built-in tiny model in {folder}: {why}")]
pub struct TinyError {
    pub folder: PathBuf,
    pub why: String,
}

/// The model's folder below `cache` (see [`crate::folders::cache`]), which need not exist: one per version of the
/// script.
pub fn location(cache: &Path) -> PathBuf {
    let digest = Sha256::digest(SCRIPT);
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    cache.join(format!("tiny-v1-{hash}"))
}

/// The model's folder, if it is complete. Checks only a few files.
pub(crate) fn existing(cache: &Path) -> Option<PathBuf> {
    let folder = location(cache);
    is_whole(&folder).then_some(folder)
}

fn is_whole(folder: &Path) -> bool {
    FILES.iter().all(|file| folder.join(file).metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0))
}

/// The model's folder; makes the model if necessary, which takes about ten seconds. `progress` gets the script's lines.
///
/// # Errors
/// [`TinyError`] with the script's last line: no space, no permission, a broken environment.
pub(crate) fn ensure(
    environment: &Environment,
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, TinyError> {
    let folder = location(cache);
    make(&environment.python, &folder, &[], progress)?;
    Ok(folder)
}

/// Makes a tiny model in `folder` unless one is there; `arguments` shape it (see [`SCRIPT`]).
///
/// # Errors
/// See [`ensure`].
pub fn make(
    python: &Path,
    folder: &Path,
    arguments: &[&str],
    progress: &mut dyn FnMut(&str),
) -> Result<(), TinyError> {
    if is_whole(folder) {
        return Ok(());
    }
    let failed = |why: String| TinyError { folder: folder.to_owned(), why };
    if folder.is_dir() {
        // Files were removed from it. It is only a cache, so it can be made again.
        fs_err::remove_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    }
    let mut command = process::command(python);
    command.args(["-c", SCRIPT]).arg(folder).args(arguments);
    let ended = process::stream(command, &mut |line| progress(line.trim_start_matches("tiny model: ")))
        .map_err(|error| failed(error.to_string()))?;
    if ended.status.success() && is_whole(folder) {
        return Ok(());
    }
    let last = ended.lines.iter().rev().find(|line| !line.trim().is_empty());
    Err(failed(last.map_or_else(|| ended.status.to_string(), |line| line.trim().to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_missing_or_empty_file_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_whole(folder.path()));
        for file in FILES {
            fs_err::write(folder.path().join(file), "x").unwrap();
        }
        assert!(is_whole(folder.path()));
        fs_err::write(folder.path().join("model.safetensors"), "").unwrap();
        assert!(!is_whole(folder.path()));
    }

    #[test]
    fn a_python_that_fails_is_told_with_its_last_line() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("tiny");
        let error = make(Path::new("/bin/false"), &folder, &[], &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
        assert!(!folder.exists());
    }
}
