//! What of a model lies on this disk. Looks only, downloads nothing.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::units::Bytes;

/// A model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// The folder with `config.json`.
    pub folder: PathBuf,
    /// All files in it.
    pub bytes: Bytes,
    /// Whether everything that a start needs is there: the configuration and every shard.
    pub complete: bool,
}

/// The hub's cache folder, as `huggingface_hub` finds it: `$HF_HUB_CACHE`, `$HUGGINGFACE_HUB_CACHE` (its old name),
/// `$HF_HOME/hub`, `$XDG_CACHE_HOME/huggingface/hub`, `~/.cache/huggingface/hub`.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    cache_folder_from(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn cache_folder_from(env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let home = || env("HOME");
    let expand = |path: PathBuf| match path.strip_prefix("~") {
        Ok(rest) => home().map_or_else(|| path.clone(), |home| home.join(rest)),
        Err(_) => path,
    };
    env("HF_HUB_CACHE")
        .or_else(|| env("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| env("HF_HOME").map(|path| path.join("hub")))
        .or_else(|| env("XDG_CACHE_HOME").map(|path| path.join("huggingface/hub")))
        .or_else(|| home().map(|path| path.join(".cache/huggingface/hub")))
        .map(expand)
}

/// What the hub's cache holds of `repo` (`org/name`); `None`: nothing.
#[must_use]
pub fn cached(repo: &str) -> Option<CachedModel> {
    cached_in(&cache_folder()?, repo)
}

/// As [`cached`], in a cache folder of the caller's choice.
#[must_use]
pub fn cached_in(cache: &Path, repo: &str) -> Option<CachedModel> {
    let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
    let mut model = inspect(&snapshot(&folder)?)?;
    // The downloader renames a blob only when it has all of it.
    model.complete &= !files(&folder.join("blobs")).any(|(name, _)| name.ends_with(".incomplete"));
    Some(model)
}

/// The revision that `main` names, else the newest one.
fn snapshot(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join("snapshots");
    let named = text(&folder.join("refs/main")).map(|name| snapshots.join(name.trim()));
    let in_folder = |path: &PathBuf| path.parent() == Some(&snapshots) && path.is_dir();
    named.filter(in_folder).or_else(|| {
        let revisions = fs_err::read_dir(&snapshots).ok()?.filter_map(Result::ok);
        revisions
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .max_by_key(|path| fs_err::metadata(path).and_then(|found| found.modified()).ok())
    })
}

/// What a model's folder holds; `None`: it is no folder.
#[must_use]
pub fn inspect(folder: &Path) -> Option<CachedModel> {
    if !folder.is_dir() {
        return None;
    }
    let found: Vec<(String, u64)> = files(folder).collect();
    let has = |name: &str| found.iter().any(|(file, bytes)| file == name && *bytes > 0);
    let shards = shards(folder);
    let weights = match &shards {
        Some(shards) => !shards.is_empty() && shards.iter().all(|shard| has(shard)),
        None => found.iter().any(|(name, bytes)| name.ends_with(".safetensors") && *bytes > 0),
    };
    Some(CachedModel {
        folder: folder.to_owned(),
        bytes: found.iter().map(|(_, bytes)| Bytes(*bytes)).sum(),
        complete: has("config.json") && weights,
    })
}

/// The shards that the index names; `None`: there is no index that can be read.
fn shards(folder: &Path) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let index: Index = serde_json::from_str(&text(&folder.join("model.safetensors.index.json"))?).ok()?;
    Some(index.weight_map.into_values().collect())
}

/// Names and sizes of the files in a folder; links count as what they point to, dangling ones not at all.
fn files(folder: &Path) -> impl Iterator<Item = (String, u64)> {
    let entries = fs_err::read_dir(folder).ok().into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| {
        let found = fs_err::metadata(entry.path()).ok().filter(std::fs::Metadata::is_file)?;
        Some((entry.file_name().to_string_lossy().into_owned(), found.len()))
    })
}

/// A small file; `None`: it is not there, not text, or larger than any index.
fn text(file: &Path) -> Option<String> {
    const LARGEST: u64 = 64 << 20;
    let mut text = String::new();
    let read = fs_err::File::open(file).ok()?.take(LARGEST + 1).read_to_string(&mut text).ok()?;
    (read as u64 <= LARGEST).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: &str = "org/name";

    /// A cache as `huggingface_hub` lays it out: blobs, and a snapshot of links to them.
    fn cache(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--org--name");
        let revision = model.join("snapshots/abc");
        fs_err::create_dir_all(&revision).unwrap();
        fs_err::create_dir_all(model.join("blobs")).unwrap();
        fs_err::create_dir_all(model.join("refs")).unwrap();
        fs_err::write(model.join("refs/main"), "abc").unwrap();
        for (index, (name, content)) in files.iter().enumerate() {
            let blob = model.join(format!("blobs/{index}"));
            fs_err::write(&blob, content).unwrap();
            fs_err::os::unix::fs::symlink(&blob, revision.join(name)).unwrap();
        }
        (cache, model)
    }

    const INDEX: &str = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;

    #[test]
    fn a_model_with_every_shard_is_complete_and_its_links_are_weighed() {
        let (cache, model) = cache(&[
            ("config.json", "{}"),
            ("model.safetensors.index.json", INDEX),
            ("model-1.safetensors", "12345"),
            ("model-2.safetensors", "123"),
        ]);
        let found = cached_in(cache.path(), REPO).unwrap();
        assert_eq!(found.folder, model.join("snapshots/abc"));
        assert_eq!(found.bytes, Bytes(2 + INDEX.len() as u64 + 8));
        assert!(found.complete);
    }

    #[test]
    fn a_missing_shard_a_dangling_link_and_a_running_download_are_incomplete() {
        let all =
            [("config.json", "{}"), ("model.safetensors.index.json", INDEX), ("model-1.safetensors", "1")];
        let (missing, _) = cache(&all);
        assert!(!cached_in(missing.path(), REPO).unwrap().complete);

        let whole = [("config.json", "{}"), ("model.safetensors", "1")];
        let (dangling, model) = cache(&whole);
        assert!(cached_in(dangling.path(), REPO).unwrap().complete);
        fs_err::remove_file(model.join("blobs/1")).unwrap();
        assert!(!cached_in(dangling.path(), REPO).unwrap().complete);

        let (running, model) = cache(&whole);
        fs_err::write(model.join("blobs/x.incomplete"), "1").unwrap();
        assert!(!cached_in(running.path(), REPO).unwrap().complete);
    }

    #[test]
    fn nothing_there_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cached_in(folder.path(), REPO), None);
        assert_eq!(inspect(&folder.path().join("none")), None);
    }

    #[test]
    fn a_reference_cannot_lead_out_of_the_cache() {
        let (cache, model) = cache(&[("config.json", "{}"), ("model.safetensors", "1")]);
        fs_err::write(model.join("refs/main"), "../../../..").unwrap();
        assert_eq!(cached_in(cache.path(), REPO).unwrap().folder, model.join("snapshots/abc"));
    }

    #[test]
    fn the_cache_folder_is_where_the_hub_library_puts_it() {
        let folder = |set: &[(&str, &str)]| {
            cache_folder_from(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        let home = ("HOME", "/h");
        assert_eq!(folder(&[]), None);
        assert_eq!(folder(&[home]), Some("/h/.cache/huggingface/hub".into()));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/x")]), Some("/x/huggingface/hub".into()));
        assert_eq!(folder(&[home, ("HF_HOME", "~/hf")]), Some("/h/hf/hub".into()));
        assert_eq!(folder(&[home, ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), Some("/c".into()));
    }
}
