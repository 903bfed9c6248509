//! The file that says that a virtual environment is whole. It is written last, after everything was imported.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// The marker's name inside the environment.
pub(super) const FILE: &str = "mlxctl-venv.json";

const SCHEMA: u32 = 1;

/// Versions that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Python's.
    pub python: String,
    /// MLX's.
    pub mlx: String,
    /// mlx-lm's.
    pub mlx_lm: String,
    pub transformers: String,
}

/// What the verification prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Found by importing.
    pub versions: Versions,
    /// Every package with its version: `mlx==0.32.4`.
    pub resolved: Vec<String>,
    /// Files and folders that go away when one of the packages is changed by hand.
    pub evidence: Vec<PathBuf>,
    /// The installation that the environment stands on.
    pub base: PathBuf,
    /// What MLX said that macOS lets the GPU hold while `iogpu.wired_limit_mb` is 0
    /// (`max_recommended_working_set_size` of `mx.device_info()`); `None`: it was not asked, or does not say.
    #[serde(default)]
    pub gpu_limit: Option<Bytes>,
}

/// What is known of a verified environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    schema: u32,
    /// [`super::super::requirement::hash`] of what was installed.
    pub requirements: String,
    pub requested: Vec<String>,
    /// Its `resolved` is sorted.
    #[serde(flatten)]
    pub verified: Verified,
}

impl Marker {
    /// The marker of an environment that was just verified.
    pub(crate) fn new(requested: Vec<String>, requirements: String, verified: Verified) -> Self {
        let mut verified = verified;
        verified.resolved.sort_unstable();
        verified.resolved.dedup();
        Self { schema: SCHEMA, requirements, requested, verified }
    }

    /// The environment's marker; `None` where there is none, or none that this version can trust.
    pub(crate) fn read(venv: &Path) -> Option<Self> {
        let marker: Self = serde_json::from_slice(&fs_err::read(venv.join(FILE)).ok()?).ok()?;
        (marker.schema == SCHEMA).then_some(marker)
    }

    /// Writes it: whole or not at all, and to the disk before the name.
    pub(crate) fn write(&self, venv: &Path) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(venv)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(venv.join(FILE)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Takes it away: from now on the environment counts as half-made.
    ///
    /// # Errors
    /// The system's own; that there is none is fine.
    pub(crate) fn remove(venv: &Path) -> std::io::Result<()> {
        match fs_err::remove_file(venv.join(FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
