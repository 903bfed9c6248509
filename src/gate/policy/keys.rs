//! Bearer keys. Only their hashes are stored: reading the file does not give access. A key has 256 random bits, so one
//! round of SHA-256 is enough.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::durable;

/// Prefix of every key, so that a key is recognized where it should not be.
const PREFIX: &str = "mlx-";

/// What a key allows: one thing only, so that a lost key opens only one door.
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
    /// The word for it in files and commands.
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

/// The entry of one key, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    /// Who or what uses it; unique.
    pub name: String,
    /// SHA-256 of the key, in lowercase hexadecimal.
    pub sha256: String,
    /// When it was created, in seconds since the epoch.
    pub created: u64,
    /// Omitted for [`May::Ask`], the only kind that earlier versions know: they take a file with any other for damaged,
    /// and then accept no key.
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
    #[error("there is already a key named '{0}'")]
    Taken(String),
    #[error("'{0}' is not a valid key name: use 1 to 64 letters, digits, '-', '_' or '.'")]
    Name(String),
    #[error("there is no key named '{0}'")]
    Unknown(String),
    #[error("{0} is not a file of keys: {1}")]
    Corrupt(PathBuf, serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The keys in a file; a missing file has none.
///
/// # Errors
/// If it cannot be read, or is not a file of keys.
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
/// If the name is taken or not valid, or the file cannot be read or written.
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

/// Removes a key; a running gate notices at its next request.
///
/// # Errors
/// If there is no key of that name, or the file cannot be read or written.
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
    // Concurrent changes must not lose a key. The lock is a separate file, because the keys' file is replaced.
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join(".keys.lock"))?;
    // An earlier version created it readable, and so lockable, for other users.
    lock.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    lock.lock()?;
    let mut keys = list(file)?;
    let result = with(&mut keys)?;
    let mut text = serde_json::to_vec_pretty(&Document { schema: 1, keys }).map_err(io::Error::from)?;
    text.push(b'\n');
    // A key that was revoked stays so after a power cut.
    durable::replace(file, &text)?;
    Ok(result)
}

fn hash(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}

/// 256 random bits as 64 hexadecimal digits.
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

/// Finds the entry of a key. Every entry is compared, each in constant time.
pub(crate) fn holder<'k>(keys: &'k [Key], key: &str) -> Option<&'k Key> {
    let given = hash(key);
    keys.iter().fold(None, |found, known| if same(&known.sha256, &given) { Some(known) } else { found })
}

/// Whether two secrets are equal, in a time that does not reveal where they differ.
pub(crate) fn same(a: &str, b: &str) -> bool {
    bool::from(a.as_bytes().ct_eq(b.as_bytes()))
}

/// The keys of a file that other processes change; read again whenever it has been replaced.
#[derive(Debug)]
pub(crate) struct KeyRing {
    file: PathBuf,
    read: Mutex<Option<(Stamp, Vec<Key>)>>,
}

/// Inode, mtime (s, ns) and size. The file is always replaced, so the inode alone would nearly do.
type Stamp = Option<(u64, i64, i64, u64)>;

impl KeyRing {
    /// The keys of `file`, which need not exist.
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, read: Mutex::new(None) }
    }

    /// The name of a key that may ask models, by the current file. If the file is unreadable, no key is accepted.
    pub(crate) fn holder(&self, key: &str) -> Option<String> {
        self.find(key).filter(|key| key.may == May::Ask).map(|key| key.name)
    }

    /// Finds the entry of a key, whatever it allows.
    pub(crate) fn find(&self, key: &str) -> Option<Key> {
        self.with(|keys| holder(keys, key).cloned())
    }

    /// Whether exactly this entry is still there.
    pub(crate) fn holds(&self, key: &Key) -> bool {
        self.with(|keys| keys.contains(key))
    }

    /// Passes the current entries to `look`; none if the file is unreadable.
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
    fn a_key_is_accepted_until_it_is_revoked_without_a_restart() {
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
    fn a_control_key_opens_no_gate_and_files_without_one_are_unchanged() {
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
        // A new key of the same name is another key.
        add(&file, "phone", May::Control, 2).unwrap();
        assert!(!ring.holds(&found));
    }

    #[test]
    fn the_file_is_private_and_does_not_contain_the_key() {
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
    fn no_key_of_a_damaged_file_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let key = add(&file, "alice", May::Ask, 1).unwrap();
        std::fs::write(&file, "{").unwrap();
        assert_eq!(KeyRing::new(file.clone()).holder(&key), None);
        assert!(matches!(add(&file, "bob", May::Ask, 1), Err(KeyError::Corrupt(..))));
    }
}
