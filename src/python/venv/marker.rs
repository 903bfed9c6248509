//! The file that marks a virtual environment as complete. It is written last, after everything was imported.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::units::Bytes;

/// The marker's name inside the environment.
pub(super) const FILE: &str = "mlxctl-venv.json";

const SCHEMA: u32 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub python: String,
    pub mlx: String,
    pub mlx_lm: String,
    pub transformers: String,
}

/// The output of `verify_venv.py`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub versions: Versions,
    /// All packages with their versions: `mlx==0.32.4`.
    pub resolved: Vec<String>,
    /// Files and folders that disappear when a package is changed by hand.
    pub evidence: Vec<PathBuf>,
    /// The base installation of the environment's Python.
    pub base: PathBuf,
    /// What macOS lets the GPU hold while `iogpu.wired_limit_mb` is 0, according to MLX
    /// (`max_recommended_working_set_size` of `mx.device_info()`); `None` if unknown.
    #[serde(default)]
    pub gpu_limit: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    schema: u32,
    /// Hash of `requested` and the interpreter; see [`super::super::requirement::hash`].
    pub requirements: String,
    pub requested: Vec<String>,
    #[serde(flatten)]
    pub verified: Verified,
}

impl Marker {
    /// The marker of a newly verified environment; sorts `resolved`.
    pub(crate) fn new(requested: Vec<String>, requirements: String, verified: Verified) -> Self {
        let mut verified = verified;
        verified.resolved.sort_unstable();
        verified.resolved.dedup();
        Self { schema: SCHEMA, requirements, requested, verified }
    }

    /// The environment's marker; `None` if it is missing, damaged or of another schema.
    pub(crate) fn read(venv: &Path) -> Option<Self> {
        let marker: Self = serde_json::from_slice(&fs_err::read(venv.join(FILE)).ok()?).ok()?;
        (marker.schema == SCHEMA).then_some(marker)
    }

    /// Writes it, whole or not at all, and synced.
    pub(crate) fn write(&self, venv: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        durable::replace(&venv.join(FILE), &text)
    }

    /// Removes it: the environment now counts as unfinished.
    ///
    /// # Errors
    /// The system's own, unless there is none.
    pub(crate) fn remove(venv: &Path) -> std::io::Result<()> {
        match fs_err::remove_file(venv.join(FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
