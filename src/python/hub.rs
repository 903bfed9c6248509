//! Finds a model's files on this disk. Everything that shows or starts a model uses the folder found here. Read-only,
//! downloads nothing.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::whole::{INDEX, TOKENIZERS, is_shard, is_text};
use crate::units::Bytes;

/// A model's folder and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedModel {
    /// The folder that contains `config.json`.
    pub folder: PathBuf,
    /// Size of all files in it.
    pub bytes: Bytes,
    /// Whether it has everything a start needs: the configuration, a tokenizer and every shard.
    pub complete: bool,
    /// One sentence on why this is not the commit that `main` names; `None` if it is.
    pub instead: Option<String>,
}

/// The hub's cache folder, found like `huggingface_hub` does (its `constants.py`): `$HF_HUB_CACHE`,
/// `$HUGGINGFACE_HUB_CACHE` (the old name), `$HF_HOME/hub`, `$XDG_CACHE_HOME/huggingface/hub`,
/// `~/.cache/huggingface/hub`. Empty variables count as unset, and `~` and `$NAME` in a value are expanded.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    cache_folder_from(|name| std::env::var_os(name).map(PathBuf::from))
}

/// Like [`cache_folder`], with variables from `env`.
pub(crate) fn cache_folder_from(env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let env = |name: &str| env(name).filter(|value| !value.as_os_str().is_empty());
    env("HF_HUB_CACHE")
        .or_else(|| env("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| env("HF_HOME").map(|path| path.join("hub")))
        .or_else(|| env("XDG_CACHE_HOME").map(|path| path.join("huggingface/hub")))
        .or_else(|| env("HOME").map(|path| path.join(".cache/huggingface/hub")))
        .map(|path| expand(&path, env))
}

/// Expands `~` and variables in a path, like `os.path.expanduser` and `os.path.expandvars`: unset variables stay as
/// they are.
fn expand(path: &Path, env: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let path = match (path.strip_prefix("~"), env("HOME")) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    };
    let Some(text) = path.to_str().filter(|text| text.contains('$')) else { return path };
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => after.split_at(
                after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
            ),
        };
        match env(name).as_deref().and_then(Path::to_str) {
            Some(value) => expanded.push_str(value),
            None => {
                expanded.push_str(&text[text.len() - rest.len() + before.len()..text.len() - behind.len()])
            }
        }
        rest = behind;
    }
    expanded.push_str(rest);
    expanded.into()
}

/// What the hub's cache has of `repo` (`org/name`), if anything.
pub(crate) fn cached(repo: &str) -> Option<CachedModel> {
    cached_in(&cache_folder()?, repo)
}

/// Like [`cached`], in another cache folder.
///
/// Returns the commit that `refs/main` names if that is complete, else the newest complete one. Only the files in a
/// commit's folder decide whether it is complete: partial files next to the blobs may belong to any other.
pub(crate) fn cached_in(cache: &Path, repo: &str) -> Option<CachedModel> {
    let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
    let named = text(&folder.join("refs/main")).map(|name| name.trim().to_owned());
    let named = named.filter(|name| is_revision(name));
    let snapshots = folder.join("snapshots");
    let main = named.as_ref().and_then(|name| inspect(&snapshots.join(name)));
    if main.as_ref().is_some_and(|model| model.complete) {
        return main;
    }
    let others = newest_first(&snapshots);
    let whole = others.iter().filter_map(|path| inspect(path)).find(|model| model.complete);
    let Some(mut whole) = whole else { return main.or_else(|| inspect(others.first()?)) };
    let short = |name: &str| name.chars().take(12).collect::<String>();
    let revision = whole.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    whole.instead = Some(match named {
        Some(named) => {
            format!("revision {} is not completely downloaded; using {}", short(&named), short(&revision))
        }
        None => format!("no current revision is recorded; using {}", short(&revision)),
    });
    Some(whole)
}

/// Whether a name read from a file can only refer to a folder directly below `snapshots`.
fn is_revision(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// The folders of all revisions, newest first by modification time.
fn newest_first(snapshots: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(snapshots).ok().into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .map(|path| (fs_err::metadata(&path).and_then(|found| found.modified()).ok(), path))
        .collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, path)| path).collect()
}

/// What a model's folder holds; `None` if it is not a folder.
pub(crate) fn inspect(folder: &Path) -> Option<CachedModel> {
    if !folder.is_dir() {
        return None;
    }
    let found = files(folder);
    let has =
        |name: &str| found.iter().any(|(file, bytes)| file == name && bytes.is_some_and(|bytes| bytes > 0));
    let weights = match shards(folder) {
        Some(shards) => !shards.is_empty() && shards.iter().all(|shard| has(shard)),
        None => loose_shards(&found, has),
    };
    // A dangling link means that a needed file has been removed.
    let dangling = found.iter().any(|(name, bytes)| bytes.is_none() && (is_text(name) || is_shard(name)));
    let tokenizer = TOKENIZERS.iter().any(|name| has(name));
    Some(CachedModel {
        folder: folder.to_owned(),
        bytes: found.iter().filter_map(|(_, bytes)| *bytes).map(Bytes).sum(),
        complete: has("config.json") && tokenizer && weights && !dangling,
        instead: None,
    })
}

/// Whether the weights of a model without an index are complete. Names like `model-00002-of-00005.safetensors` give the
/// number of shards.
fn loose_shards(found: &[(String, Option<u64>)], has: impl Fn(&str) -> bool) -> bool {
    let mut shards = found.iter().map(|(name, _)| name).filter(|name| is_shard(name)).peekable();
    shards.peek().is_some()
        && shards.all(|name| {
            let numbered = name
                .strip_suffix(".safetensors")
                .and_then(|stem| stem.rsplit_once("-of-"))
                .and_then(|(first, count)| Some((first.rsplit_once('-')?.0, count)));
            match numbered.and_then(|(stem, count)| Some((stem, count, count.parse::<u32>().ok()?))) {
                Some((stem, digits, count)) if count <= 10_000 => (1..=count).all(|number| {
                    has(&format!("{stem}-{number:0width$}-of-{digits}.safetensors", width = digits.len()))
                }),
                _ => has(name),
            }
        })
}

/// The shards that the index names; `None` without a readable index.
fn shards(folder: &Path) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let index: Index = serde_json::from_str(&text(&folder.join(INDEX))?).ok()?;
    Some(index.weight_map.into_values().collect())
}

/// Names and sizes of the files in a folder, following links; dangling ones have no size.
fn files(folder: &Path) -> Vec<(String, Option<u64>)> {
    let entries = fs_err::read_dir(folder).ok().into_iter().flatten().filter_map(Result::ok);
    let sized = entries.filter_map(|entry| {
        let size = match fs_err::metadata(entry.path()) {
            Ok(found) if found.is_file() => Some(found.len()),
            Ok(_) => return None,
            Err(_) => None,
        };
        Some((entry.file_name().to_string_lossy().into_owned(), size))
    });
    sized.collect()
}

/// Reads a file of at most 64 MiB; `None` if it is missing, larger, or not UTF-8.
fn text(file: &Path) -> Option<String> {
    const LARGEST: u64 = 64 << 20;
    let mut text = String::new();
    let read = fs_err::File::open(file).ok()?.take(LARGEST + 1).read_to_string(&mut text).ok()?;
    (read as u64 <= LARGEST).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[(&str, &str)] =
        &[("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "1")];

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

    const WEIGHT_MAP: &str = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;

    #[test]
    fn a_model_with_every_shard_is_complete_and_its_links_are_weighed() {
        let (cache, model) = cache(&[
            ("config.json", "{}"),
            ("tokenizer.json", "{}"),
            ("model.safetensors.index.json", WEIGHT_MAP),
            ("model-1.safetensors", "12345"),
            ("model-2.safetensors", "123"),
        ]);
        let found = cached_in(cache.path(), REPO).unwrap();
        assert_eq!(found.folder, model.join("snapshots/abc"));
        assert_eq!(found.bytes, Bytes(4 + WEIGHT_MAP.len() as u64 + 8));
        assert!(found.complete);
    }

    #[test]
    fn a_missing_shard_tokenizer_or_blob_makes_a_model_incomplete() {
        let all = [
            ("config.json", "{}"),
            ("tokenizer.json", "{}"),
            ("model.safetensors.index.json", WEIGHT_MAP),
            ("model-1.safetensors", "1"),
        ];
        let (missing, _) = cache(&all);
        assert!(!cached_in(missing.path(), REPO).unwrap().complete);

        let whole = [("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "1")];
        let (dangling, model) = cache(&whole);
        assert!(cached_in(dangling.path(), REPO).unwrap().complete);
        fs_err::remove_file(model.join("blobs/2")).unwrap();
        assert!(!cached_in(dangling.path(), REPO).unwrap().complete);

        let numbered = [
            ("config.json", "{}"),
            ("tokenizer.json", "{}"),
            ("model-00001-of-00002.safetensors", "1"),
            ("model-00002-of-00002.safetensors", "1"),
        ];
        assert!(cached_in(cache(&numbered).0.path(), REPO).unwrap().complete);
        assert!(!cached_in(cache(&numbered[..3]).0.path(), REPO).unwrap().complete, "one of two");
        let without_tokenizer = [("config.json", "{}"), ("model.safetensors", "1")];
        assert!(!cached_in(cache(&without_tokenizer).0.path(), REPO).unwrap().complete);
    }

    /// Leftovers of an earlier download, of this commit or another, do not make a complete model incomplete.
    #[test]
    fn an_orphaned_partial_file_does_not_make_a_whole_model_partial() {
        let (cache, model) = cache(WHOLE);
        for orphan in ["2.1a2b3c4d.incomplete", "f00d.incomplete", "f00d.mlxctl.incomplete"] {
            fs_err::write(model.join("blobs").join(orphan), "1").unwrap();
        }
        assert!(cached_in(cache.path(), REPO).unwrap().complete);
    }

    /// The file with the commit's name may have been written by hand, with a newline, or be missing.
    #[test]
    fn main_is_found_although_its_reference_is_missing_or_has_blanks() {
        let (cache, model) = cache(WHOLE);
        let found = || cached_in(cache.path(), REPO).unwrap();
        fs_err::write(model.join("refs/main"), " abc\r\n").unwrap();
        assert_eq!((found().complete, found().instead), (true, None));
        for missing in ["", "\n"] {
            fs_err::write(model.join("refs/main"), missing).unwrap();
            assert!(found().complete && found().instead.unwrap().contains("using abc"));
        }
        fs_err::remove_dir_all(model.join("refs")).unwrap();
        assert!(found().complete && found().folder.ends_with("snapshots/abc"));
    }

    #[test]
    fn while_main_names_an_incomplete_commit_the_newest_whole_one_is_used() {
        let (cache, model) = cache(WHOLE);
        let snapshots = model.join("snapshots");
        for (name, age) in [("older", 200), ("new", 0)] {
            let folder = snapshots.join(name);
            fs_err::create_dir(&folder).unwrap();
            fs_err::write(folder.join("config.json"), "{}").unwrap();
            let when = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
            std::fs::File::open(&folder).unwrap().set_modified(when).unwrap();
        }
        for file in ["tokenizer.json", "model.safetensors"] {
            fs_err::write(snapshots.join("older").join(file), "1").unwrap();
        }
        let when = std::time::SystemTime::now() - std::time::Duration::from_secs(400);
        std::fs::File::open(snapshots.join("older")).unwrap().set_modified(when).unwrap();
        for name in ["new", "gone"] {
            fs_err::write(model.join("refs/main"), name).unwrap();
            let found = cached_in(cache.path(), REPO).unwrap();
            assert!(found.complete && found.folder.ends_with("abc"), "{found:?}");
            assert!(found.instead.unwrap().starts_with(&format!("revision {name} is not completely")));
        }
        // Where none is whole, the one that is named says how far it is.
        fs_err::remove_file(snapshots.join("older/model.safetensors")).unwrap();
        fs_err::remove_file(model.join("blobs/2")).unwrap();
        fs_err::write(model.join("refs/main"), "new").unwrap();
        let found = cached_in(cache.path(), REPO).unwrap();
        assert!(!found.complete && found.folder.ends_with("new") && found.instead.is_none(), "{found:?}");
    }

    #[test]
    fn nothing_there_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cached_in(folder.path(), REPO), None);
        assert_eq!(inspect(&folder.path().join("none")), None);
    }

    #[test]
    fn a_reference_cannot_lead_out_of_the_cache() {
        let (cache, model) = cache(WHOLE);
        for name in ["../../../..", "/etc", ".."] {
            fs_err::write(model.join("refs/main"), name).unwrap();
            assert_eq!(cached_in(cache.path(), REPO).unwrap().folder, model.join("snapshots/abc"));
        }
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
        assert_eq!(folder(&[home, ("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/o")]), Some("/o".into()));
        assert_eq!(
            folder(&[home, ("HF_HOME", ""), ("HF_HUB_CACHE", "")]),
            Some("/h/.cache/huggingface/hub".into())
        );
        assert_eq!(folder(&[home, ("HF_HOME", "$HOME/${HOME}/$NONE/x")]), Some("/h//h/$NONE/x/hub".into()));
    }
}
