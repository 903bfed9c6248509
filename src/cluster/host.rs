//! The report of a machine to the others of its cluster: `mlxctl host --json`. Read-only; needs no registry.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::SCHEMA;
use crate::backend::weights;
use crate::host::Host;
use crate::python::venv::{self, SetupRequest};
use crate::registry::Source;

/// What to include in a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// An environment whose versions to report.
    pub venv: Option<PathBuf>,
    /// A model whose files to report.
    pub model: Option<Source>,
    /// Programs to look for among the running ones: memory is reserved for them.
    pub programs: Vec<String>,
}

/// The document of `mlxctl host --json`. Keys are stable; unknown values are null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub schema: u32,
    pub os: String,
    pub chip: Option<String>,
    pub memory_bytes: u64,
    /// What a new process could allocate without swapping.
    pub available_bytes: Option<u64>,
    pub gpu_limit_bytes: Option<u64>,
    pub version: String,
    pub binary: Option<PathBuf>,
    /// Null if not requested.
    pub venv: Option<Environment>,
    /// Null if not requested, or missing.
    pub model: Option<ModelFiles>,
    /// Names of RDMA devices, such as "rdma_en2".
    pub rdma: Vec<String>,
    /// The requested programs that are running.
    pub running: Vec<String>,
}

/// A Python environment on that machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub path: PathBuf,
    /// Why it cannot be used; null if it can.
    pub problem: Option<String>,
    pub python: Option<String>,
    pub mlx: Option<String>,
    pub mlx_lm: Option<String>,
}

/// A model's files on that machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModelFiles {
    pub folder: PathBuf,
    /// SHA-256 of `config.json` and the index, or without an index, the names and sizes of the weights.
    pub index_sha256: String,
}

pub(crate) fn report(host: &dyn Host, question: &Question) -> Report {
    let (facts, memory) = (host.facts(), host.memory().unwrap_or_default());
    Report {
        schema: SCHEMA,
        os: facts.os.clone(),
        chip: facts.chip.clone(),
        memory_bytes: facts.memory.0,
        available_bytes: memory.available.map(|bytes| bytes.0),
        gpu_limit_bytes: memory.gpu_limit.map(|bytes| bytes.0),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        binary: std::env::current_exe().ok(),
        venv: question.venv.as_deref().map(environment),
        model: question.model.as_ref().and_then(weights::folder).and_then(|folder| {
            let index_sha256 = index(&folder)?;
            Some(ModelFiles { folder, index_sha256 })
        }),
        rdma: rdma(),
        running: host.running(&question.programs),
    }
}

fn environment(path: &Path) -> Environment {
    let request = SetupRequest {
        venv: path.to_owned(),
        packages: Vec::new(),
        interpreter: None,
        nvidia: None,
        uv: None,
        verify: false,
    };
    let (versions, problem) = match venv::existing(&request) {
        Ok(found) => (Some(found.versions), None),
        Err(not) => (None, Some(not.why)),
    };
    let of = |pick: fn(&venv::Versions) -> &String| versions.as_ref().map(|versions| pick(versions).clone());
    Environment {
        path: path.to_owned(),
        problem,
        python: of(|versions| &versions.python),
        mlx: of(|versions| &versions.mlx),
        mlx_lm: of(|versions| &versions.mlx_lm),
    }
}

/// A hash that differs between versions of a model's files, without reading the weights.
fn index(folder: &Path) -> Option<String> {
    let mut weights: Vec<(String, u64)> = Vec::new();
    let mut indexes = Vec::new();
    for entry in fs_err::read_dir(folder).ok()?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors.index.json") {
            indexes.push(entry.path());
        } else if name.starts_with("model") && name.ends_with(".safetensors") {
            // Follows the link in a hub's cache.
            weights.push((name, fs_err::metadata(entry.path()).ok()?.len()));
        }
    }
    let mut hash = Sha256::new();
    hash.update(fs_err::read(folder.join("config.json")).ok()?);
    indexes.sort();
    weights.sort();
    for index in &indexes {
        hash.update(fs_err::read(index).ok()?);
    }
    if indexes.is_empty() {
        weights.iter().for_each(|(name, size)| hash.update(format!("{name} {size}\n")));
    }
    Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The RDMA devices, found like `mlx.distributed_config` does.
fn rdma() -> Vec<String> {
    let listed = Command::new("ibv_devices").stdin(Stdio::null()).output();
    let text = listed.map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().filter(|word| word.starts_with("rdma_")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_have_the_same_hash_and_others_another() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).unwrap();
        assert_eq!(index(folder.path()), None, "no config.json, no model");
        write("config.json", "{}");
        write("model.safetensors", "1234");
        let first = index(folder.path()).unwrap();
        assert_eq!((first.len(), index(folder.path())), (64, Some(first.clone())));
        write("model.safetensors", "12345");
        let longer = index(folder.path()).unwrap();
        write("model.safetensors.index.json", "{}");
        let indexed = index(folder.path()).unwrap();
        assert!(first != longer && longer != indexed);
    }

    #[test]
    fn an_environment_that_is_not_there_is_said_with_its_place() {
        let found = environment(Path::new("/nowhere/venv"));
        assert_eq!((found.python, found.path), (None, PathBuf::from("/nowhere/venv")));
        assert!(found.problem.unwrap().contains("no virtual environment at /nowhere/venv"));
    }
}
