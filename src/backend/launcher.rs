//! The launcher's files, and a model's prompts on disk as far as Rust has to do with them.

use std::io;
use std::path::{Path, PathBuf};

use crate::units::Bytes;

macro_rules! embedded {
    ($($name:literal,)*) => { &[$(($name, include_str!($name))),*] };
}

/// Name and text. Each imports only from those before it, so that at every moment of [`write()`] what a file imports is
/// there. The last one is what a backend runs.
const FILES: &[(&str, &str)] = embedded![
    "pace.py",
    "card.py",
    "serving.py",
    "prompt_files.py",
    "prompt_identity.py",
    "prompt_card.py",
    "prompt_keeper.py",
    "prompt_store.py",
    "launcher_log.py",
    "launcher_memory.py",
    "launcher_link.py",
    "launcher_guard.py",
    "launcher_answer.py",
    "launcher_watch.py",
    "launcher_room.py",
    "launcher_prompts.py",
    "launcher.py",
];

/// Held by the backend that uses a store; empty.
const LOCK: &str = "lock";

/// Writes the launcher into a folder in which a backend may be starting: each file is replaced whole, and only if its
/// text differs. A backend that listens has imported all of them and reads none again.
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
    fn each_file_imports_only_from_those_before_it() {
        let place =
            |module: &str| FILES.iter().position(|(name, _)| name.strip_suffix(".py") == Some(module));
        for (at, (name, text)) in FILES.iter().enumerate() {
            let imports = text.lines().filter_map(|line| {
                let line = line.trim_start();
                line.strip_prefix("import ").or_else(|| line.strip_prefix("from "))
            });
            for module in imports.filter_map(|rest| rest.split_whitespace().next()) {
                assert!(place(module).is_none_or(|found| found < at), "{name} imports {module}");
            }
        }
        let (launcher, others) = FILES.split_last().unwrap();
        assert_eq!(launcher.0, "launcher.py");
        for (name, _) in others {
            let module = name.trim_end_matches(".py");
            let imported = FILES.iter().any(|(_, text)| {
                text.contains(&format!("import {module}\n"))
                    || text.contains(&format!("from {module} import"))
            });
            assert!(imported, "nothing imports {name}");
        }
    }

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
