//! What is on disk: models, cache, logs, state, sockets, keys.

use std::path::Path;

use super::Finding;
use crate::units::Bytes;

/// Space that must stay free in addition to the models: macOS swaps and updates into it.
const HEADROOM: Bytes = Bytes::gb(5);

/// A log larger than this is worth a warning.
const LARGE_LOG: Bytes = Bytes::gb(1);

/// With less than this free, a log or state file may be truncated at any moment.
const FULL: Bytes = Bytes::mb(100);

/// Whether there is room for what is written while models run, and for models that are not downloaded yet.
/// `missing`: name and declared size. `free`: on the cache's disk. `written`: folders and what their disks have free.
pub(crate) fn space(
    missing: &[(String, Option<Bytes>)],
    free: Option<Bytes>,
    written: &[(String, Bytes)],
) -> Finding {
    let id = "disk";
    if let Some((folder, left)) =
        written.iter().filter(|(_, left)| *left < FULL).min_by_key(|(_, left)| *left)
    {
        return Finding::fail(
            id,
            format!("the disk of {folder} is full ({left} free); logs and state cannot be written"),
            format!("free some space: du -sh {folder}/* shows what uses it"),
        );
    }
    let Some(free) = free else {
        return Finding::skip(id, "cannot read how much space the disk has");
    };
    if missing.is_empty() && free < HEADROOM {
        return Finding::warn(
            id,
            format!("every model is downloaded; only {free} free, which swap and system updates also need"),
            "free some space on the disk of the Hugging Face cache",
        );
    }
    if missing.is_empty() {
        return Finding::ok(id, format!("every model is downloaded; {free} free"));
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(", ");
    let needed: Bytes = missing.iter().filter_map(|(_, size)| *size).sum();
    if needed + HEADROOM > free {
        return Finding::fail(
            id,
            format!("{names} to download, about {needed}; {free} free"),
            "free some space, or set HF_HOME to a folder on a larger disk",
        );
    }
    Finding::warn(
        id,
        format!("{names} not downloaded, about {needed}; {free} free"),
        names.split(", ").map(|name| format!("mlxctl pull {name}")).collect::<Vec<_>>().join("; "),
    )
}

/// Whether logs can be written and do not fill the disk. `writable`: the error, if they cannot.
pub(crate) fn logs(folder: &Path, writable: Result<(), String>, largest: Option<(String, Bytes)>) -> Finding {
    let id = "logs";
    let place = folder.display();
    match (writable, largest) {
        (Err(why), _) => Finding::fail(
            id,
            format!("{place} cannot be written: {why}"),
            format!("df -h {place} shows whether its disk is full; the folder must belong to this user"),
        ),
        (Ok(()), Some((name, size))) if size > LARGE_LOG => {
            Finding::warn(id, format!("{name} in {place} has {size}"), format!(": > {place}/{name}"))
        }
        (Ok(()), _) => Finding::ok(id, place.to_string()),
    }
}

/// What an earlier supervisor left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Whether a supervisor answers: then nothing is left over.
    pub supervisor: bool,
    /// Backends that run without a supervisor.
    pub orphans: usize,
    /// Records of backends that are gone.
    pub records: usize,
}

/// Whether an earlier supervisor left something behind. Nothing of it is in the way, because the next supervisor adopts
/// what runs and removes the rest, but memory that an orphan holds is worth knowing about.
pub(crate) fn leftovers(found: Leftovers) -> Finding {
    let id = "leftovers";
    match found {
        Leftovers { supervisor: true, .. } => Finding::ok(id, "none: a supervisor is running"),
        Leftovers { orphans: 0, records: 0, .. } => Finding::ok(id, "none"),
        Leftovers { orphans: 0, records, .. } => Finding::ok(
            id,
            format!("{records} records of backends that have ended; the next supervisor removes them"),
        ),
        Leftovers { orphans, .. } => Finding::warn(
            id,
            format!("{orphans} backends are running without a supervisor and still use memory"),
            "mlxctl serve (or agent install) to adopt them; then mlxctl stop to end them",
        ),
    }
}

/// Whether the sockets' paths fit into the `longest` bytes that the system allows (103 on macOS).
pub(crate) fn socket_path(wanted: &Path, used: &Path, longest: usize) -> Finding {
    let id = "socket-path";
    let length = |path: &Path| path.as_os_str().len();
    if length(used) > longest {
        return Finding::fail(
            id,
            format!("{} has {} bytes; the limit is {longest}", used.display(), length(used)),
            "set `run` in [paths] to a shorter path",
        );
    }
    if used != wanted {
        return Finding::warn(
            id,
            format!("{} would be too long; {} is used", wanted.display(), used.display()),
            "set `run` in [paths] to a shorter path, if you want the sockets there",
        );
    }
    Finding::ok(id, format!("{} of {longest} bytes", length(used)))
}

/// Whether only the owner reads the keys. `mode`: the file's permission bits; `None`: there is no file.
pub(crate) fn keys(file: &Path, mode: Option<u32>, required: bool) -> Finding {
    let id = "keys";
    let place = file.display();
    match mode {
        None if required => Finding::fail(
            id,
            "require_key is set but there are no keys: every request is refused",
            "mlxctl key add NAME",
        ),
        None => Finding::skip(id, "no keys are in use"),
        Some(mode) if mode & 0o077 != 0 => Finding::fail(
            id,
            format!("{place} has mode {:04o}: others can read or change it", mode & 0o7777),
            format!("chmod 600 {place}"),
        ),
        Some(_) => Finding::ok(id, format!("{place} is private to this user")),
    }
}

/// The Hugging Face hub's cache on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HubCache {
    /// Where it is; `None`: it is not there.
    pub folder: Option<String>,
    /// Models of the registry that are only partly downloaded.
    pub partial: Vec<String>,
}

/// Whether the server can read the hub's cache. Without that folder `scan_cache_dir` raises, and mlx_lm.server sends an
/// empty reply to `/v1/models`.
pub(crate) fn hub_cache(found: &HubCache) -> Finding {
    let id = "hub-cache";
    let Some(folder) = &found.folder else {
        return Finding::warn(id, "there is no Hugging Face cache yet", "mlxctl pull creates it");
    };
    if found.partial.is_empty() {
        return Finding::ok(id, folder);
    }
    Finding::warn(
        id,
        format!("{} downloaded in part", found.partial.join(", ")),
        found.partial.iter().map(|name| format!("mlxctl pull {name}")).collect::<Vec<_>>().join("; "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn models_to_download_need_their_size_and_headroom() {
        let missing = [("32b".to_owned(), Some(Bytes::gb(20))), ("70b".to_owned(), Some(Bytes::gb(40)))];
        assert_eq!(space(&[], Some(Bytes::gb(6)), &[]).state, State::Ok);
        assert_eq!(space(&missing, Some(Bytes::gb(64)), &[]).state, State::Fail);
        let room = space(&missing, Some(Bytes::gb(66)), &[]);
        assert_eq!(room.state, State::Warn);
        assert_eq!(room.fix.as_deref(), Some("mlxctl pull 32b; mlxctl pull 70b"));
        assert_eq!(space(&missing, None, &[]).state, State::Skip);
    }

    #[test]
    fn a_full_disk_is_not_fine_although_every_model_is_there() {
        let written = |left| [("/root".to_owned(), Bytes::gb(900)), ("/state".to_owned(), left)];
        let full = space(&[], Some(Bytes::gb(900)), &written(Bytes(0)));
        assert_eq!(full.state, State::Fail);
        assert!(full.seen.contains("the disk of /state is full"), "{}", full.seen);
        assert_eq!(space(&[], Some(Bytes::gb(900)), &written(Bytes::gb(1))).state, State::Ok);
        assert_eq!(space(&[], Some(Bytes::gb(1)), &written(Bytes::gb(1))).state, State::Warn);
        assert_eq!(space(&[], None, &written(Bytes(0))).state, State::Fail, "whatever else is unknown");
    }

    #[test]
    fn a_log_folder_must_be_writable() {
        let folder = Path::new("/logs");
        assert_eq!(logs(folder, Ok(()), Some(("32b.log".into(), Bytes::mb(1)))).state, State::Ok);
        assert_eq!(logs(folder, Ok(()), Some(("32b.log".into(), Bytes::gb(2)))).state, State::Warn);
        assert_eq!(logs(folder, Err("no such file".into()), None).state, State::Fail);
    }

    #[test]
    fn only_backends_without_a_supervisor_are_worth_a_warning() {
        let state =
            |supervisor, orphans, records| leftovers(Leftovers { supervisor, orphans, records }).state;
        assert_eq!(state(false, 0, 0), State::Ok);
        assert_eq!(state(false, 0, 2), State::Ok);
        assert_eq!(state(true, 2, 2), State::Ok);
        assert_eq!(state(false, 1, 1), State::Warn);
    }

    #[test]
    fn socket_paths_fit_or_say_so() {
        let (short, long) = (Path::new("/run/mlxctl.sock"), Path::new("/a/very/long/mlxctl.sock"));
        assert_eq!(socket_path(short, short, 20).state, State::Ok);
        assert_eq!(socket_path(long, short, 20).state, State::Warn);
        assert_eq!(socket_path(long, long, 20).state, State::Fail);
    }

    #[test]
    fn keys_are_the_owners_alone() {
        let file = Path::new("/keys.json");
        assert_eq!(keys(file, Some(0o100_600), true).state, State::Ok);
        assert_eq!(keys(file, Some(0o100_644), true).state, State::Fail);
        assert_eq!(keys(file, None, true).state, State::Fail);
        assert_eq!(keys(file, None, false).state, State::Skip);
    }

    #[test]
    fn a_cache_that_is_missing_or_half_full_is_named() {
        let cache = |folder: Option<&str>, partial: &[&str]| HubCache {
            folder: folder.map(str::to_owned),
            partial: partial.iter().map(|&name| name.to_owned()).collect(),
        };
        assert_eq!(hub_cache(&cache(Some("/hub"), &[])).state, State::Ok);
        assert_eq!(hub_cache(&cache(None, &[])).state, State::Warn);
        assert!(hub_cache(&cache(Some("/hub"), &["32b"])).seen.contains("32b"));
    }
}
