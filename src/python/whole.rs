//! Checks that a model's folder is complete: index against shards, sizes, headers. Reads some kilobytes per shard, no
//! weights.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::memory::{Problem, files};
use crate::terminal::shown;
use crate::units::Bytes;

/// Longest configuration or index that is read, bytes.
const LONGEST_TEXT: u64 = 64 << 20;

/// A tokenizer needs one of these.
pub(super) const TOKENIZERS: [&str; 4] =
    ["tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json"];

/// The file that maps tensors to shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Extensions of texts that mlx-lm and tokenizers read; `pull.py` fetches the same.
const TEXTS: [&str; 6] = [".json", ".jinja", ".txt", ".tiktoken", ".model", ".jsonl"];

/// Whether this is a name of weights that mlx-lm loads (`model*.safetensors`).
pub(super) fn is_shard(name: &str) -> bool {
    name.starts_with("model") && name.ends_with(".safetensors")
}

/// Whether this is a name of a text that belongs to the weights, and not to `consolidated*`, which mlx-lm ignores.
pub(super) fn is_text(name: &str) -> bool {
    TEXTS.iter().any(|end| name.ends_with(end)) && !name.starts_with("consolidated")
}

/// A folder that has everything a start needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole {
    pub folder: PathBuf,
    pub shards: usize,
    /// Distinct tensors in all shards.
    pub tensors: usize,
    /// Size of all shards.
    pub weights: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    /// The configuration refers to code in the model's folder.
    #[error(
        "config.json names a `model_file` ({0}): code of the model's author, which mlx-lm before 0.32 runs (CVE-2026-5843)"
    )]
    Code(String),
    /// The environment's mlx-lm cannot serve it, regardless of its weights.
    #[error("{0}")]
    Unserved(String),
    #[error("{file}: {why}")]
    Damaged { file: String, why: String },
}

impl Flaw {
    fn damaged(file: &str, why: impl ToString) -> Self {
        Self::Damaged { file: shown(file).into_owned(), why: shown(&why.to_string()).into_owned() }
    }
}

/// Checks everything but the weights' values.
pub(crate) fn check(folder: &Path) -> Result<Whole, Flaw> {
    match files::impostor(folder) {
        Some(Problem::Hollow { file, why }) => {
            let name =
                Path::new(&file).file_name().map_or(file.clone(), |name| name.to_string_lossy().into());
            return Err(Flaw::damaged(&name, why));
        }
        Some(Problem::Gguf { .. }) => {
            let why = "there are only GGUF files, which mlx-lm cannot read";
            return Err(Flaw::damaged("model.safetensors", why));
        }
        _ => {}
    }
    check_texts(folder)?;
    let index = index(folder)?;
    // mlx-lm loads every file with such a name, even if it is not in the index.
    let mut names = loose(folder);
    names.extend(index.iter().flat_map(HashMap::values).cloned());
    if names.is_empty() {
        return Err(Flaw::damaged("model.safetensors", "there are no weights in a format mlx-lm reads"));
    }
    let mut whole =
        Whole { folder: folder.to_owned(), shards: names.len(), tensors: 0, weights: Bytes::ZERO };
    let mut held: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in names {
        let (tensors, bytes) = header(&folder.join(&name)).map_err(|why| Flaw::damaged(&name, why))?;
        whole.weights += Bytes(bytes);
        held.insert(name, tensors);
    }
    for (tensor, shard) in index.iter().flatten() {
        if !held.get(shard).is_some_and(|tensors| tensors.contains(tensor)) {
            return Err(Flaw::damaged(
                shard,
                format!("the index says it contains `{tensor}`, but it does not"),
            ));
        }
    }
    // A tensor in two files is in memory only once.
    whole.tensors = held.into_values().flatten().collect::<BTreeSet<_>>().len();
    Ok(whole)
}

/// Checks what can be checked before the weights are downloaded: the configuration, the tokenizer, and that the index
/// names only files in the repository.
pub(crate) fn check_description(folder: &Path, files: &[String]) -> Result<(), Flaw> {
    check_texts(folder)?;
    let shards = index(folder)?.into_iter().flat_map(HashMap::into_values);
    for shard in shards.collect::<BTreeSet<_>>() {
        if !files.contains(&shard) {
            return Err(Flaw::damaged(&shard, "the index names it, but the repository has no such file"));
        }
    }
    Ok(())
}

fn check_texts(folder: &Path) -> Result<(), Flaw> {
    let config: Value = json(folder, "config.json")?
        .ok_or_else(|| Flaw::damaged("config.json", "it is missing: this is not a model for mlx-lm"))?;
    if let Some(code) = config.get("model_file").filter(|code| !code.is_null()) {
        let code = code.as_str().map_or_else(|| code.to_string(), |code| shown(code).into_owned());
        return Err(Flaw::Code(code));
    }
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        json::<serde::de::IgnoredAny>(folder, name)?;
    }
    let found = TOKENIZERS.iter().any(|name| folder.join(name).metadata().is_ok_and(|found| found.len() > 0));
    let why = "it is missing, and so is every other kind of tokenizer";
    if found { Ok(()) } else { Err(Flaw::damaged(TOKENIZERS[0], why)) }
}

/// Maps tensors to shards; `None` if there is no index.
fn index(folder: &Path) -> Result<Option<HashMap<String, String>>, Flaw> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let name = INDEX;
    let Some(index) = json::<Index>(folder, name)? else { return Ok(None) };
    match index.weight_map.values().find(|shard| shard.contains('/') || shard.starts_with('.')) {
        Some(shard) => Err(Flaw::damaged(name, format!("it names `{shard}`, which does not exist"))),
        None => Ok(Some(index.weight_map)),
    }
}

/// The files that match mlx-lm's pattern `model*.safetensors`.
fn loose(folder: &Path) -> BTreeSet<String> {
    let entries = fs_err::read_dir(folder).ok().into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| is_shard(name))
        .collect()
}

/// Parses a JSON file; `None` if it does not exist.
fn json<T: serde::de::DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, Flaw> {
    let file = match File::open(folder.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Flaw::damaged(name, error)),
    };
    let mut text = Vec::new();
    file.take(LONGEST_TEXT).read_to_end(&mut text).map_err(|error| Flaw::damaged(name, error))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Flaw::damaged(name, format!("it cannot be read: {error}")))
}

/// The names of a shard's tensors, and the file's size.
fn header(path: &Path) -> Result<(BTreeSet<String>, u64), String> {
    let size = path.metadata().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "it is missing".to_owned(),
        _ => error.to_string(),
    })?;
    let (_, tensors) = files::read_header(path).map_err(|problem| match problem {
        Problem::Unreadable { why, .. } | Problem::Header { why, .. } => why,
        other => other.to_string(),
    })?;
    Ok((tensors.into_iter().map(|tensor| tensor.name).collect(), size.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str, bytes: usize) -> Vec<u8> {
        let header = format!(
            r#"{{"__metadata__":{{"format":"mlx"}},"{name}":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(vec![7; bytes]);
        file
    }

    fn model() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs_err::write(folder.path().join(name), bytes).unwrap();
        write("config.json", br#"{"model_type":"llama"}"#);
        write("tokenizer.json", b"{}");
        write("model-1.safetensors", &shard("a", 10));
        write("model-2.safetensors", &shard("b", 20));
        let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
        write("model.safetensors.index.json", index.as_bytes());
        folder
    }

    fn why(folder: &Path) -> String {
        check(folder).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_model_is_counted() {
        let model = model();
        let whole = check(model.path()).unwrap();
        assert_eq!((whole.shards, whole.tensors), (2, 2));
        assert!(whole.weights > Bytes(30));
    }

    #[test]
    fn without_an_index_the_files_that_mlx_lm_looks_for_count() {
        let model = model();
        fs_err::remove_file(model.path().join("model.safetensors.index.json")).unwrap();
        fs_err::write(model.path().join("consolidated.safetensors"), "not looked for").unwrap();
        assert_eq!(check(model.path()).unwrap().tensors, 2);
    }

    #[test]
    fn a_file_that_the_index_lacks_counts_and_a_tensor_in_two_files_counts_once() {
        let model = model();
        fs_err::write(model.path().join("model.safetensors"), shard("b", 20)).unwrap();
        let whole = check(model.path()).unwrap();
        assert_eq!((whole.shards, whole.tensors), (3, 2));
    }

    #[test]
    fn code_of_the_models_own_is_refused() {
        let model = model();
        fs_err::write(model.path().join("config.json"), r#"{"model_file":"evil.py"}"#).unwrap();
        assert!(why(model.path()).contains("CVE-2026-5843"));
        let flaw = check_description(model.path(), &[]).unwrap_err();
        assert_eq!(flaw, Flaw::Code("evil.py".to_owned()));
    }

    #[test]
    fn every_kind_of_damage_is_named_with_its_file() {
        type Harm = (&'static str, fn(&Path), &'static str);
        let harms: [Harm; 9] = [
            ("model-2.safetensors", |file| fs_err::remove_file(file).unwrap(), "missing"),
            ("model-2.safetensors", |file| fs_err::write(file, b"12345").unwrap(), "cut off"),
            ("model-2.safetensors", |file| fs_err::write(file, [255; 64]).unwrap(), "its header says"),
            (
                "model-2.safetensors",
                |file| fs_err::write(file, [shard("b", 20), vec![0]].concat()).unwrap(),
                "the file at 21",
            ),
            ("model-2.safetensors", |file| fs_err::write(file, shard("c", 20)).unwrap(), "contains `b`"),
            ("model-2.safetensors", |file| fs_err::write(file, b"").unwrap(), "it is empty"),
            (
                "tokenizer.json",
                |file| fs_err::write(file, "version https://git-lfs.github.com/spec/v1\n").unwrap(),
                "Git LFS pointer",
            ),
            ("config.json", |file| fs_err::write(file, "{").unwrap(), "cannot be read"),
            ("tokenizer.json", |file| fs_err::remove_file(file).unwrap(), "tokenizer"),
        ];
        for (name, harm, expected) in harms {
            let model = model();
            harm(&model.path().join(name));
            let why = why(model.path());
            assert!(why.starts_with(name) && why.contains(expected), "{name}: {why}");
        }
    }

    #[test]
    fn an_index_that_names_files_elsewhere_is_damaged() {
        let model = model();
        let index = r#"{"weight_map":{"a":"../../secret.safetensors"}}"#;
        fs_err::write(model.path().join("model.safetensors.index.json"), index).unwrap();
        assert!(why(model.path()).contains("does not exist"));
    }

    #[test]
    fn before_the_weights_are_there_the_index_is_held_against_the_repository() {
        let model = model();
        let files = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        check_description(model.path(), &files(&["model-1.safetensors", "model-2.safetensors"])).unwrap();
        let flaw = check_description(model.path(), &files(&["model-1.safetensors"])).unwrap_err();
        assert!(flaw.to_string().starts_with("model-2.safetensors"), "{flaw}");
    }
}
