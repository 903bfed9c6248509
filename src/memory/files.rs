//! Reads what determines memory from a model's folder: `config.json`, safetensors headers and the index. That is a few
//! hundred kilobytes, however large the model is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::estimate::Files;
use super::learn::Store;
use super::problem::Problem;
use super::profile::Profile;
use super::shape::Shape;
use super::thumb;
use super::weights::{self, Header, Named};
use crate::units::Bytes;

/// A config.json or index of this size or larger is rejected.
const SMALL_FILE: u64 = 64 << 20;

/// First bytes of the pointer that Git LFS leaves in place of a file.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Reads a folder as mlx_lm loads it: every `model*.safetensors`.
///
/// # Errors
/// The [`Problem`] that keeps it from being a model.
pub fn read_folder(folder: &Path) -> Result<Files, Problem> {
    read_profiled(folder, None)
}

/// The shape by `config.json` and rules of thumb.
///
/// # Errors
/// The file cannot be read or does not describe a model.
pub(crate) fn read_config(folder: &Path) -> Result<Shape, Problem> {
    thumb::shape(&read_small(&folder.join("config.json"))?)
}

/// As [`read_folder`], with mlx_lm's profile in place of the rules of thumb.
///
/// # Errors
/// As [`read_folder`]; a `config.json` that has a profile is not read again.
pub fn read_profiled(folder: &Path, profile: Option<&Profile>) -> Result<Files, Problem> {
    let shape = match profile {
        Some(profile) => profile.shape(),
        None => read_config(folder)?,
    };
    let (shards, indexes) = list(folder)?;
    for index in indexes {
        let named = weights::parse_index(read_small(&index)?.as_bytes())
            .map_err(|why| Problem::Index { file: show(&index), why })?;
        let missing: Vec<&String> = named.iter().filter(|name| !folder.join(name).is_file()).collect();
        if let Some(first) = missing.first() {
            return Err(Problem::MissingShards {
                folder: show(folder),
                count: missing.len(),
                first: (*first).clone(),
            });
        }
    }
    if shards.is_empty() {
        let other = impostor(folder).filter(|problem| matches!(problem, Problem::Gguf { .. }));
        return Err(other.unwrap_or_else(|| Problem::NoWeights { folder: show(folder) }));
    }
    let (mut sum, mut tensors) = (Header::default(), BTreeMap::new());
    for shard in &shards {
        let (header, named) = read_header(shard)?;
        sum = sum.plus(header);
        for tensor in named {
            // mlx_lm merges the files: a tensor found in two of them is in memory once.
            if let Some(before) = tensors.insert(tensor.name.clone(), tensor) {
                sum.bytes = sum.bytes.saturating_sub(Bytes(before.bytes));
                sum.tensors -= 1;
            }
        }
    }
    let outside = tensors.values().filter(|tensor| !tensor.in_a_layer());
    Ok(Files {
        outside: outside.map(|tensor| Bytes(tensor.bytes)).sum(),
        weights: profile.map_or(sum, |profile| profile.weights(sum)),
        // MLX computes in the type of the weights, whatever config.json declares.
        shape: match sum.activation().filter(|_| profile.is_none()) {
            Some(activation) => shape.computed_in(activation),
            None => shape,
        },
        shards: shards.len(),
        adapter: Header::default(),
        shares: profile.map_or_else(Vec::new, |profile| profile.shares.clone()),
    })
}

/// What an adapter's folder adds to a model's weights (`adapters.safetensors`, as mlx_lm loads it).
pub(crate) fn read_adapter(folder: &Path) -> Result<Header, Problem> {
    Ok(read_header(&folder.join("adapters.safetensors"))?.0)
}

/// Finds a needed file that is empty or a Git LFS pointer, or a folder whose only weights are GGUF. Reads a few bytes
/// of each file.
pub(crate) fn impostor(folder: &Path) -> Option<Problem> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    let ends = |path: &Path, end: &str| path.extension() == Some(OsStr::new(end));
    let read = |path: &&PathBuf| {
        is_shard(path) || path.file_name().is_some_and(|name| NEEDED.iter().any(|needed| name == *needed))
    };
    let hollow = |path: &PathBuf| Some(Problem::Hollow { file: show(path), why: hollow(path)? });
    files.iter().filter(read).find_map(hollow).or_else(|| {
        let none = !files.iter().any(|path| is_shard(path));
        (none && files.iter().any(|path| ends(path, "gguf"))).then(|| Problem::Gguf { folder: show(folder) })
    })
}

/// Files that are checked besides the weights, where a model has them.
const NEEDED: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "model.safetensors.index.json",
];

/// Why a file has none of its content: it is empty or a Git LFS pointer.
fn hollow(path: &Path) -> Option<&'static str> {
    let mut first = Vec::new();
    let open = std::fs::File::open(path).ok()?;
    open.take(LFS_POINTER.len() as u64).read_to_end(&mut first).ok()?;
    match first.as_slice() {
        [] => Some("it is empty"),
        LFS_POINTER => Some("it is a Git LFS pointer, not the file itself"),
        _ => None,
    }
}

fn is_shard(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| name.starts_with("model") && name.ends_with(".safetensors"))
}

/// The learned footprints in `file`. Empty if the file is missing or cannot be parsed: everything in it can be learned
/// again.
pub(crate) fn read_learned(file: &Path) -> Store {
    read_small(file).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn list(folder: &Path) -> Result<(BTreeSet<PathBuf>, BTreeSet<PathBuf>), Problem> {
    let unreadable =
        |error: std::io::Error| Problem::Unreadable { file: show(folder), why: error.to_string() };
    let (mut shards, mut indexes) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        // `consolidated.safetensors.index.json` belongs to another format that may be in the same folder.
        if name.starts_with("model") && name.ends_with(".safetensors.index.json") {
            indexes.insert(path);
        } else if is_shard(&path) {
            shards.insert(path);
        }
    }
    Ok((shards, indexes))
}

/// Reads the header of one safetensors file.
///
/// # Errors
/// The file cannot be read, is hollow, or does not match its header.
pub(crate) fn read_header(file: &Path) -> Result<(Header, Vec<Named>), Problem> {
    let unreadable = |error: std::io::Error| Problem::Unreadable { file: show(file), why: error.to_string() };
    let bad = |why: String| Problem::Header { file: show(file), why };
    let mut open = std::fs::File::open(file).map_err(unreadable)?;
    let length = open.metadata().map_err(unreadable)?.len();
    if let Some(why) = hollow(file) {
        return Err(Problem::Hollow { file: show(file), why });
    }
    let mut first = [0; 8];
    open.read_exact(&mut first).map_err(|_| bad(format!("it is cut off: {length} bytes")))?;
    let header = weights::header_length(first, length).map_err(bad)?;
    let mut json = Vec::new();
    open.take(header).read_to_end(&mut json).map_err(unreadable)?;
    weights::parse_header(&json, length.saturating_sub(header).saturating_sub(8)).map_err(bad)
}

fn read_small(file: &Path) -> Result<String, Problem> {
    let unreadable = |why: String| Problem::Unreadable { file: show(file), why };
    let open = std::fs::File::open(file).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    let read =
        open.take(SMALL_FILE).read_to_string(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if read as u64 == SMALL_FILE {
        return Err(unreadable("it is far too large".to_owned()));
    }
    if text.as_bytes().starts_with(LFS_POINTER) {
        let why = "it is a Git LFS pointer, not the file itself";
        return Err(Problem::Hollow { file: show(file), why });
    }
    Ok(text)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
