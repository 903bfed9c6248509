//! The launcher's files, and a model's prompts on disk as far as Rust has to do with them.

use std::io;
use std::path::{Path, PathBuf};

use crate::units::Bytes;

/// Name and text. The last one is what a backend runs; it imports the others from its own folder.
pub(crate) const FILES: [(&str, &str); 4] = [
    ("pace.py", include_str!("pace.py")),
    ("serving.py", include_str!("serving.py")),
    ("prompt_store.py", include_str!("prompt_store.py")),
    ("launcher.py", include_str!("launcher.py")),
];

/// Held by the backend that uses a store; empty.
const LOCK: &str = "lock";

/// Writes the launcher into a folder, whose other processes may be starting one: each file is replaced whole, and only
/// where it is another version's.
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

/// Where a model's prompts are stored.
pub(crate) fn prompts(state: &Path, model: &str) -> PathBuf {
    state.join("prompts").join(model)
}

/// Deletes stored prompts; how many bytes they took. A folder that is not there holds none.
///
/// # Errors
/// The system's: something may be left.
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
    fn forgetting_leaves_the_folder_and_its_lock_for_the_backend_that_holds_it() {
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
