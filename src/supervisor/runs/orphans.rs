//! Backends without a supervisor that would return: the agent was removed while the supervisor was dead.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::discovery;
use crate::backend::record;
use crate::backend::spec::Record;
use crate::host::{Host, Identity, Signal};
use crate::supervisor::records::{Lock, LockError};

/// Time between checks whether a process group has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Longest time for the system to tear down a killed process, with gigabytes of wired memory.
const KILLED: Duration = Duration::from_secs(20);

/// The backends of an instance without a supervisor. No supervisor can start while this is held.
#[derive(Debug)]
pub(crate) struct Orphans {
    run: PathBuf,
    /// The process of each model, by name.
    pub backends: BTreeMap<String, Identity>,
    _lock: Lock,
}

impl Orphans {
    /// Finds them by their records, or by their arguments if a record was lost. `None`: there is no run folder.
    ///
    /// # Errors
    /// [`LockError::Held`] by a supervisor, which owns its backends; or the system's.
    pub(crate) fn find(run: &Path, host: &dyn Host) -> Result<Option<Self>, LockError> {
        let lock = match Lock::take(run) {
            // Without the folder no backend was ever started.
            Err(LockError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            taken => taken?,
        };
        let recorded = discovery::find(run, host).alive.into_iter();
        let mut backends: BTreeMap<String, Identity> =
            recorded.map(|record| (record.spec.model, record.identity)).collect();
        for marked in host.find_by_argument(&run.to_string_lossy()) {
            if let Some(model) = discovery::serves(&marked.arguments, run) {
                backends.entry(model).or_insert(marked.who);
            }
        }
        Ok(Some(Self { run: run.to_owned(), backends, _lock: lock }))
    }

    /// Ends the backend of `model` with SIGTERM, and after `term` with SIGKILL. Requests came through the supervisor's
    /// gate and ended with it, so there is nothing to drain.
    ///
    /// # Errors
    /// The system's, or `TimedOut` if its process group is still there.
    pub(crate) fn end(&mut self, host: &dyn Host, model: &str, term: Duration) -> io::Result<()> {
        let Some(&who) = self.backends.get(model) else { return Ok(()) };
        host.signal(who, Signal::Term)?;
        if !gone(host, who, term) {
            host.signal(who, Signal::Kill)?;
            if !gone(host, who, KILLED) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end after SIGKILL"));
            }
        }
        self.backends.remove(model);
        record::forget(&self.run, model)
    }
}

/// The live runs by their records. Takes no lock and changes nothing, so it is safe for displaying them.
pub(crate) fn running(run: &Path, host: &dyn Host) -> Vec<Record> {
    let entries = fs_err::read_dir(run).into_iter().flatten().flatten();
    let records = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".live.json"));
    let read = |path: PathBuf| serde_json::from_slice(&fs_err::read(path).ok()?).ok();
    records.filter_map(|entry| read(entry.path())).filter(|record| discovery::lives(record, host)).collect()
}

/// Waits until the whole process group has ended; `false`: `patience` ran out.
fn gone(host: &dyn Host, who: Identity, patience: Duration) -> bool {
    let began = Instant::now();
    while host.group_alive(who) {
        if began.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

#[cfg(test)]
mod tests {
    #[cfg(not(target_os = "macos"))]
    use std::process::{Child, Command};

    use super::*;

    /// A process that looks like the backend of `model`, in a session of its own, doing `script`.
    #[cfg(not(target_os = "macos"))]
    fn backend(run: &Path, model: &str, script: &str) -> Child {
        // setsid(1) execs the program, since it does not lead a group; macOS has no setsid.
        let mut command = Command::new("setsid");
        command
            .args(["/bin/sh", "-c", script])
            .arg(run.join("launcher.py"))
            .arg(run.join(format!("{model}.json")));
        command.spawn().unwrap()
    }

    #[cfg(not(target_os = "macos"))]
    fn reap(mut child: Child) {
        // A zombie does not count as alive, and only its parent can reap it.
        child.wait().unwrap();
    }

    #[cfg(not(target_os = "macos"))]
    #[test]
    fn a_backend_whose_supervisor_is_dead_is_found_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let host = crate::host::system();
        let ready = run.join("ready");
        let child =
            backend(run, "32b", &format!("touch '{}'; while :; do sleep 0.01; done", ready.display()));
        while !ready.exists() {
            std::thread::sleep(LOOK);
        }
        let mut left = Orphans::find(run, &*host).unwrap().unwrap();
        assert_eq!(
            left.backends.values().map(|who| who.pid.cast_unsigned()).collect::<Vec<_>>(),
            [child.id()]
        );
        left.end(&*host, "32b", Duration::from_secs(60)).unwrap();
        reap(child);
        assert!(left.backends.is_empty());
        drop(left);
        assert!(Orphans::find(run, &*host).unwrap().unwrap().backends.is_empty());
    }

    #[cfg(not(target_os = "macos"))]
    #[test]
    fn a_backend_that_ignores_sigterm_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let host = crate::host::system();
        let ready = run.join("ready");
        let script = format!("trap '' TERM; touch '{}'; while :; do sleep 0.01; done", ready.display());
        let child = backend(run, "32b", &script);
        while !ready.exists() {
            std::thread::sleep(LOOK);
        }
        let mut left = Orphans::find(run, &*host).unwrap().unwrap();
        left.end(&*host, "32b", Duration::from_millis(100)).unwrap();
        reap(child);
    }

    #[test]
    fn the_backends_of_a_live_supervisor_are_not_orphans() {
        let folder = tempfile::tempdir().unwrap();
        let host = crate::host::system();
        let _supervisor = Lock::take(folder.path()).unwrap();
        let found = Orphans::find(folder.path(), &*host);
        assert!(matches!(found, Err(LockError::Held(_))), "{found:?}");
        assert!(Orphans::find(&folder.path().join("none"), &*host).unwrap().is_none());
    }
}
