//! Where files are that more than one part writes or reads.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::registry::Registry;

/// The keys of all gates.
pub(crate) fn keys_file(registry: &Registry) -> PathBuf {
    registry.paths.state.join("keys.json")
}

/// `<logs>/<name>.log`.
pub(crate) fn log_file(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

/// When a file was last written to; `None`: it is not there.
pub(crate) fn written(file: &Path) -> Option<SystemTime> {
    fs_err::metadata(file).and_then(|found| found.modified()).ok()
}
