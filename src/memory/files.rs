//! Reads what decides about memory from a model's folder: `config.json`, safetensors headers and the index. A few
//! hundred kilobytes, whatever the model weighs.

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

/// No config.json or index is larger; a larger one is none.
const SMALL_FILE: u64 = 64 << 20;

/// What the text begins with that Git LFS leaves in a file's place.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Reads a folder as mlx_lm loads it: all of `model*.safetensors`.
///
/// # Errors
/// The [`Problem`] that keeps it from being a model.
pub fn read_folder(folder: &Path) -> Result<Files, Problem> {
    read_profiled(folder, None)
}

/// By rules of thumb, what `config.json` says.
///
/// # Errors
/// A file that cannot be read, or describes no model.
pub(crate) fn read_config(folder: &Path) -> Result<Shape, Problem> {
    thumb::shape(&read_small(&folder.join("config.json"))?)
}

/// As [`read_folder`], with what mlx_lm says of the model in the place of the rules for its family.
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
            // mlx_lm merges the files: a tensor that is in two of them is in memory once.
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
        // MLX computes in the type of the weights, whatever the configuration declares.
        shape: match sum.activation().filter(|_| profile.is_none()) {
            Some(activation) => shape.computed_in(activation),
            None => shape,
        },
        shards: shards.len(),
        adapter: Header::default(),
        shares: profile.map_or_else(Vec::new, |profile| profile.shares.clone()),
    })
}

/// What the folder of an adapter adds to a model's weights (`adapters.safetensors`, as mlx_lm loads it).
pub(crate) fn read_adapter(folder: &Path) -> Result<Header, Problem> {
    Ok(read_header(&folder.join("adapters.safetensors"))?.0)
}

/// A file in the folder that is not what its name says: empty, or what Git LFS leaves in its place; or weights in
/// another format alone. Reads a few bytes of each file.
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

/// Files that a model needs beside its weights, where it has them.
const NEEDED: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "model.safetensors.index.json",
];

/// Why a file holds nothing of what it should.
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

/// The learned footprints that `file` keeps; none if it is not there or cannot be understood: everything in it can be
/// learned again.
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
        // Files of another format have an index of their own, `consolidated.safetensors.index.json`.
        if name.starts_with("model") && name.ends_with(".safetensors.index.json") {
            indexes.insert(path);
        } else if is_shard(&path) {
            shards.insert(path);
        }
    }
    Ok((shards, indexes))
}

/// Reads what one safetensors file says of its tensors.
///
/// # Errors
/// That it cannot be read, holds nothing, or does not hold what its header says.
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
