//! Bearer keys. Only their hashes are kept: who reads the file cannot use it. A key has 256 random bits, so one
//! round of SHA-256 is as good as many.

use std::fmt::Write as _;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a key begins with, so that it is known for one where it should not be.
const PREFIX: &str = "mlx-";

/// What a key is for: one thing, so that one that gets lost opens one door.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum May {
    /// Ask models at the gates
    #[default]
    Ask,
    /// Start and stop models on the page
    Control,
}

impl May {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Control => "control",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes one")]
    fn is_ask(&self) -> bool {
        *self == Self::Ask
    }
}

/// One key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    /// Whose it is; unique.
    pub name: String,
    /// SHA-256 of it, hexadecimal.
    pub sha256: String,
    /// When it was made, seconds since the epoch.
    pub created: u64,
    /// Left out where it is what every key of an earlier version was for. An earlier version takes a file with another
    /// one for damaged, and lets nobody in.
    #[serde(default, skip_serializing_if = "May::is_ask")]
    pub may: May,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    keys: Vec<Key>,
}

/// Why the keys could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A name that is taken.
    #[error("there is already a key named '{0}'")]
    Taken(String),
    /// A name that is none.
    #[error("'{0}' is not a valid key name: use 1 to 64 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// Nothing of that name.
    #[error("there is no key named '{0}'")]
    Unknown(String),
    /// The file holds something else.
    #[error("{0} is not a file of keys: {1}")]
    Corrupt(PathBuf, serde_json::Error),
    /// The system's own.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The keys in a file; a missing file holds none.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub(crate) fn list(file: &Path) -> Result<Vec<Key>, KeyError> {
    let text = match fs_err::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let document: Document =
        serde_json::from_slice(&text).map_err(|error| KeyError::Corrupt(file.to_path_buf(), error))?;
    Ok(document.keys)
}

/// Creates a key and returns it; it cannot be shown again.
///
/// # Errors
/// When the name is taken or none, or the file cannot be read or written.
pub fn add(file: &Path, name: &str, may: May, now: u64) -> Result<String, KeyError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
        return Err(KeyError::Name(name.to_owned()));
    }
    change(file, |keys| {
        if keys.iter().any(|key| key.name == name) {
            return Err(KeyError::Taken(name.to_owned()));
        }
        let key = format!("{PREFIX}{}", random()?);
        keys.push(Key { name: name.to_owned(), sha256: hash(&key), created: now, may });
        Ok(key)
    })
}

/// Takes a key away; a running gate knows at its next request.
///
/// # Errors
/// When there is none of that name, or the file cannot be read or written.
pub fn revoke(file: &Path, name: &str) -> Result<(), KeyError> {
    change(file, |keys| {
        let before = keys.len();
        keys.retain(|key| key.name != name);
        if keys.len() == before { Err(KeyError::Unknown(name.to_owned())) } else { Ok(()) }
    })
}

fn change<T>(file: &Path, with: impl FnOnce(&mut Vec<Key>) -> Result<T, KeyError>) -> Result<T, KeyError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(folder)?;
    // Two at once must not lose one's key. The lock is a file of its own: the keys' file is replaced.
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join(".keys.lock"))?;
    // One that an earlier version made is for others to read, and to lock.
    lock.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    lock.lock()?;
    let mut keys = list(file)?;
    let result = with(&mut keys)?;
    let mut text = serde_json::to_vec_pretty(&Document { schema: 1, keys }).map_err(io::Error::from)?;
    text.push(b'\n');
    let mut new =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o600)).tempfile_in(folder)?;
    new.write_all(&text)?;
    new.as_file().sync_all()?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(result)
}

fn hash(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}

/// 256 random bits, hexadecimal.
pub(crate) fn random() -> io::Result<String> {
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(hex(&random))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Which key it is. Every key is compared, each in constant time.
pub(crate) fn holder<'k>(keys: &'k [Key], key: &str) -> Option<&'k Key> {
    let given = hash(key);
    keys.iter().fold(None, |found, known| if same(&known.sha256, &given) { Some(known) } else { found })
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub(crate) fn same(a: &str, b: &str) -> bool {
    bool::from(a.as_bytes().ct_eq(b.as_bytes()))
}

/// The keys of a file that others change; read again when it is another file than before.
#[derive(Debug)]
pub(crate) struct KeyRing {
    file: PathBuf,
    read: Mutex<Option<(Stamp, Vec<Key>)>>,
}

/// Tells one state of a file from the next: it is always replaced, so the inode alone would nearly do.
type Stamp = Option<(u64, i64, i64, u64)>;

impl KeyRing {
    /// The keys of `file`, which need not exist.
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, read: Mutex::new(None) }
    }

    /// The owner of a key that may ask models, by the current file. If the file is unreadable, no key is accepted.
    pub(crate) fn holder(&self, key: &str) -> Option<String> {
        self.find(key).filter(|key| key.may == May::Ask).map(|key| key.name)
    }

    /// Which key it is, whatever it is for.
    pub(crate) fn find(&self, key: &str) -> Option<Key> {
        self.with(|keys| holder(keys, key).cloned())
    }

    /// Whether this very key is still there.
    pub(crate) fn holds(&self, key: &Key) -> bool {
        self.with(|keys| keys.contains(key))
    }

    /// The file as it is now. An unreadable one lets nobody in.
    fn with<T>(&self, look: impl FnOnce(&[Key]) -> T) -> T {
        let stamp = std::fs::metadata(&self.file)
            .ok()
            .map(|data| (data.ino(), data.mtime(), data.mtime_nsec(), data.size()));
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.as_ref().is_none_or(|(before, _)| *before != stamp) {
            let keys = list(&self.file).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read the keys; all requests are refused");
                Vec::new()
            });
            *read = Some((stamp, keys));
        }
        look(read.as_ref().map(|(_, keys)| keys.as_slice()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_until_it_is_revoked_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/keys.json");
        let ring = KeyRing::new(file.clone());
        assert_eq!(ring.holder("anything"), None);
        let alice = add(&file, "alice", May::Ask, 1).unwrap();
        let bob = add(&file, "bob", May::Ask, 2).unwrap();
        assert_eq!(ring.holder(&alice).as_deref(), Some("alice"));
        assert_eq!(ring.holder(&bob).as_deref(), Some("bob"));
        revoke(&file, "alice").unwrap();
        assert_eq!(ring.holder(&alice), None);
        assert_eq!(ring.holder(&bob).as_deref(), Some("bob"));
        assert!(matches!(revoke(&file, "alice"), Err(KeyError::Unknown(_))));
        assert!(matches!(add(&file, "bob", May::Ask, 3), Err(KeyError::Taken(_))));
        assert!(matches!(add(&file, "a b", May::Ask, 3), Err(KeyError::Name(_))));
    }

    #[test]
    fn a_key_for_control_opens_no_gate_and_files_without_one_are_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let ring = KeyRing::new(file.clone());
        let alice = add(&file, "alice", May::Ask, 1).unwrap();
        assert!(!std::fs::read_to_string(&file).unwrap().contains("may"));
        let phone = add(&file, "phone", May::Control, 2).unwrap();
        assert_eq!((ring.holder(&alice).as_deref(), ring.holder(&phone)), (Some("alice"), None));
        let found = ring.find(&phone).unwrap();
        assert_eq!((found.name.as_str(), found.may), ("phone", May::Control));
        assert!(ring.holds(&found));
        revoke(&file, "phone").unwrap();
        assert!(!ring.holds(&found));
        // One of the same name is another key.
        add(&file, "phone", May::Control, 2).unwrap();
        assert!(!ring.holds(&found));
    }

    #[test]
    fn the_file_is_private_and_holds_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let key = add(&file, "alice", May::Ask, 1).unwrap();
        assert_eq!(key.len(), PREFIX.len() + 64);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let lock = folder.path().join(".keys.lock");
        assert_eq!(std::fs::metadata(&lock).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o644)).unwrap();
        add(&file, "bob", May::Ask, 1).unwrap();
        assert_eq!(std::fs::metadata(&lock).unwrap().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains(key.strip_prefix(PREFIX).unwrap()), "{text}");
    }

    #[test]
    fn a_damaged_file_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let key = add(&file, "alice", May::Ask, 1).unwrap();
        std::fs::write(&file, "{").unwrap();
        assert_eq!(KeyRing::new(file.clone()).holder(&key), None);
        assert!(matches!(add(&file, "bob", May::Ask, 1), Err(KeyError::Corrupt(..))));
    }
}
