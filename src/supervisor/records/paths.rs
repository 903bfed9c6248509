//! Paths of files that more than one part uses.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::registry::Registry;

/// The file of API keys for all gates, `<state>/keys.json`.
pub(crate) fn keys_file(registry: &Registry) -> PathBuf {
    registry.paths.state.join("keys.json")
}

/// The path of a log: `<logs>/<name>.log`.
pub(crate) fn log_file(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

/// When a file was last modified; `None`: it is missing.
pub(crate) fn written(file: &Path) -> Option<SystemTime> {
    fs_err::metadata(file).and_then(|found| found.modified()).ok()
}
