//! The launcher's Python files, and where a model's prompts are stored on disk.

use std::io;
use std::path::{Path, PathBuf};

use crate::units::Bytes;

/// Names and texts. A backend runs the last one, which imports the others from its own folder.
pub(crate) const FILES: [(&str, &str); 4] = [
    ("pace.py", include_str!("pace.py")),
    ("serving.py", include_str!("serving.py")),
    ("prompt_store.py", include_str!("prompt_store.py")),
    ("launcher.py", include_str!("launcher.py")),
];

/// Locked by the backend that uses a store; an empty file.
const LOCK: &str = "lock";

/// Writes the launcher's files into a folder. Another process may be starting a launcher there, so each file is replaced
/// atomically, and only if it differs.
///
/// # Errors
/// The system's.
pub fn write(folder: &Path) -> io::Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            continue;
        }
        let beside = folder.join(format!("{name}.{}.tmp", std::process::id()));
        std::fs::write(&beside, text)?;
        std::fs::rename(beside, path)?;
    }
    Ok(())
}

/// The folder of a model's stored prompts.
pub(crate) fn prompts(state: &Path, model: &str) -> PathBuf {
    state.join("prompts").join(model)
}

/// Deletes stored prompts; returns their size. A missing folder counts as empty.
///
/// # Errors
/// The system's; some prompts may be left.
pub(crate) fn forget(folder: &Path) -> io::Result<Bytes> {
    let mut freed = 0;
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Bytes::ZERO),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == LOCK || !entry.file_type()?.is_file() {
            continue;
        }
        freed += entry.metadata()?.len();
        fs_err::remove_file(entry.path())?;
    }
    Ok(Bytes(freed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_keeps_the_folder_and_the_lock_that_a_backend_holds() {
        let state = tempfile::tempdir().unwrap();
        let folder = prompts(state.path(), "32b");
        assert_eq!(forget(&folder).unwrap(), Bytes::ZERO);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(LOCK), "").unwrap();
        std::fs::write(folder.join("x.safetensors"), [0; 100]).unwrap();
        std::fs::write(folder.join("x.tokens"), [0; 10]).unwrap();
        assert_eq!(forget(&folder).unwrap(), Bytes(110));
        let left: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK]);
    }
}
