//! The files of a run: what it is started with ([`Spec`]), and its identity ([`Record`]).
//!
//! Both are 0600 and replaced atomically. Neither is synced to disk, since they only matter to the boot that wrote them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::spec::{Record, Spec};

/// The path of a [`Spec`]: `<run>/<model>.json`.
pub(crate) fn spec_file(run: &Path, model: &str) -> PathBuf {
    run.join(format!("{model}.json"))
}

/// The path of a [`Record`]: `<run>/<model>.live.json`.
pub(crate) fn record_file(run: &Path, model: &str) -> PathBuf {
    run.join(format!("{model}.live.json"))
}

/// Writes the spec of a backend; returns the file's path.
pub fn write_spec(run: &Path, spec: &Spec) -> io::Result<PathBuf> {
    let path = spec_file(run, &spec.model);
    replace(&path, spec)?;
    Ok(path)
}

/// The spec of this model's last run; `None`: there is none. A damaged file is handled as in [`read_record`].
///
/// # Errors
/// The system's, if the file exists but cannot be read.
pub fn read_spec(run: &Path, model: &str) -> io::Result<Option<Spec>> {
    read(&spec_file(run, model))
}

/// The record of this model's current or last run; `None`: there is none, or it cannot be parsed. Such a file is set
/// aside as `.damaged` with a warning in the log, so that one torn file does not keep a supervisor from starting.
///
/// # Errors
/// The system's, if the file exists but cannot be read.
pub fn read_record(run: &Path, model: &str) -> io::Result<Option<Record>> {
    read(&record_file(run, model))
}

/// Removes the record and the spec of a model that is gone from the registry.
pub(crate) fn forget_model(run: &Path, model: &str) -> io::Result<()> {
    forget(run, model)?;
    remove(&spec_file(run, model))
}

/// Writes the record of a run whose own was lost.
pub(crate) fn write_record(run: &Path, record: &Record) -> io::Result<()> {
    replace(&record_file(run, &record.spec.model), record)
}

/// Removes the record of a run that is over. A missing file is not an error.
pub(crate) fn forget(run: &Path, model: &str) -> io::Result<()> {
    remove(&record_file(run, model))
}

/// Removes a file. A missing file is not an error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a temporary file and renames it to `path`, so that readers never see a partial one.
pub(crate) fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    // The writers of one file are different processes (supervisor and exec step), so the pid keeps them apart.
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| {
        // Best effort: only the first error matters.
        let _ = remove(&beside);
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    })
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let aside = path.with_extension("json.damaged");
            tracing::warn!(file = %path.display(), aside = %aside.display(), %error, "damaged file set aside");
            fs::rename(path, aside)?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_private() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("32b.json");
        replace(&path, &[1, 2]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 1, "nothing else is left behind");
        forget_model(run.path(), "32b").unwrap();
        forget_model(run.path(), "32b").unwrap();
        assert!(!path.exists(), "forgetting twice is not an error");
    }

    #[test]
    fn a_torn_file_is_set_aside_and_reads_as_missing() {
        let run = tempfile::tempdir().unwrap();
        let path = record_file(run.path(), "32b");
        for damage in ["", "{\"spec\":{\"sch", "[]", "\0\0\0"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(read_record(run.path(), "32b").unwrap(), None, "{damage:?}");
            assert!(!path.exists());
            assert_eq!(fs::read_to_string(run.path().join("32b.live.json.damaged")).unwrap(), damage);
        }
    }

    #[test]
    fn version_1_is_read() {
        let run = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-v1");
        for name in ["32b.json", "32b.live.json"] {
            fs::copy(fixtures.join(name), run.path().join(name)).unwrap();
        }
        let record = read_record(run.path(), "32b").unwrap().unwrap();
        assert_eq!((record.identity.pid, record.spawned), (4711, None), "`spawned` was added later");
        assert_eq!(read_spec(run.path(), "32b").unwrap(), Some(record.spec));
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let error = replace(Path::new("/nonexistent/run/32b.json"), &1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/nonexistent/run/32b.json"), "{error}");
    }
}
