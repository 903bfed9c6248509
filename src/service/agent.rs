//! The agent: the supervisor as a job of the system's service manager, launchd or systemd.

mod launchd;
mod systemd;

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use launchd::LaunchdAgent;
pub(crate) use systemd::SystemdAgent;

/// The agent as its service manager reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Whether the manager knows a job of this name.
    pub loaded: bool,
    pub pid: Option<i32>,
    /// The domain that the job is in, if it is the wrong one: `user/501`, launchd's domain without a screen.
    pub misplaced: Option<String>,
    /// The state in the manager's words.
    pub state: String,
    /// How it last ended, in one phrase; `None`: it never did, or it is unknown.
    pub last_end: Option<String>,
    /// Starts so far, if the manager counts them.
    pub runs: Option<u64>,
    /// The program that it runs, if the manager says.
    pub program: Option<String>,
}

/// Why the service manager did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct AgentError {
    /// What went wrong, in one line.
    pub what: String,
    pub hint: String,
}

/// A service manager and the one job of it that runs the supervisor.
pub(crate) trait Agent {
    /// The manager's name: `launchd` or `systemd`.
    fn manager(&self) -> &'static str;

    /// The job's label, or the unit's name.
    fn name(&self) -> &str;

    /// The property list or the unit file.
    fn file(&self) -> &Path;

    /// What that file should contain, as text.
    fn wanted(&self) -> &str;

    /// How the file on disk (`found`) differs, one line per difference.
    fn differs(&self, found: &str) -> Vec<String>;

    /// The mlxctl that the file on disk (`found`) runs, if it is one of ours.
    fn program_of(&self, found: &str) -> Option<PathBuf>;

    /// The program that the job should run.
    fn program(&self) -> &Path;

    /// The job as the manager reports it now.
    ///
    /// # Errors
    /// The manager is missing or does not answer.
    fn seen(&self) -> Result<Seen, AgentError>;

    /// The commands that `install` would run.
    fn calls(&self, install: Install) -> Vec<String>;

    /// The commands that `remove` would run.
    fn calls_to_remove(&self) -> Vec<String>;

    /// Loads the written file and starts the job; returns its pid. `say` is called with every step.
    ///
    /// # Errors
    /// It does not come up.
    fn install(&self, install: Install, say: &mut dyn FnMut(&str)) -> Result<i32, AgentError>;

    /// Ends the process, unloads the job and removes its file. A job that is not loaded is not an error.
    ///
    /// # Errors
    /// It does not end; then the file stays, too.
    fn remove(&self, say: &mut dyn FnMut(&str)) -> Result<(), AgentError>;

    /// Whether [`Self::restart`] unloads the job and loads it again, so that the supervisor has to stay until then.
    fn unloads_to_restart(&self) -> bool {
        false
    }

    /// Replaces the process `before`; returns the new pid.
    ///
    /// # Errors
    /// No other process comes up.
    fn restart(
        &self,
        before: Option<i32>,
        handed: Handed,
        say: &mut dyn FnMut(&str),
    ) -> Result<i32, AgentError>;
}

/// How the supervisor reacted to the request to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    No,
    /// It lets requests in flight finish and then exits by itself.
    Leaves {
        /// How long that may take at most.
        drain: Duration,
    },
    /// No request is in flight, and it waits until it is told to end.
    Holds,
}

/// What has to be done to install the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    /// It is running, loaded from the file as it is.
    Nothing,
    /// It is loaded from the file as it is, but has no process.
    Start,
    /// The manager does not know it.
    Load,
    /// The manager has another one of this name: unload that first.
    Replace,
}

/// Compares what is there with what is wanted. `file` is its content on disk, if it exists.
pub(crate) fn plan(file: Option<&str>, wanted: &str, program: &Path, seen: &Seen) -> Install {
    if !seen.loaded {
        return Install::Load;
    }
    // What is loaded may be older than the file: only its program shows that, if the manager names it.
    let other = seen.program.as_deref().is_some_and(|running| Path::new(running) != program);
    match (file == Some(wanted) && !other && seen.misplaced.is_none(), seen.pid) {
        (false, _) => Install::Replace,
        (true, None) => Install::Start,
        (true, Some(_)) => Install::Nothing,
    }
}

/// Writes `text` as the whole file: atomically, owned by this user, mode 0644 (launchd refuses a file that others may
/// write). Creates the folder if it is missing.
pub(crate) fn write(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    fs_err::create_dir_all(folder)?;
    let mut new = tempfile::Builder::new().prefix(".mlxctl-").tempfile_in(folder)?;
    new.write_all(text.as_bytes())?;
    new.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    new.as_file().sync_all()?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

/// Copies the file that is about to be replaced to `state`, and returns the path of the copy if there was one. Not next
/// to the original, because the manager reads that folder at login.
pub(crate) fn keep(file: &Path, state: &Path) -> io::Result<Option<PathBuf>> {
    let Some(name) = file.file_name().filter(|_| file.exists()) else { return Ok(None) };
    let mut kept = name.to_owned();
    kept.push(".replaced");
    let kept = state.join(kept);
    fs_err::create_dir_all(state)?;
    fs_err::copy(file, &kept)?;
    Ok(Some(kept))
}

/// Removes the file; a missing file is not an error.
fn discard(file: &Path) -> Result<(), AgentError> {
    match fs_err::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(AgentError {
            what: error.to_string(),
            hint: "the job is gone but would be loaded again at the next login; remove the file by hand"
                .into(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "/p/mlxctl";

    fn seen(loaded: bool, pid: Option<i32>, program: Option<&str>) -> Seen {
        Seen { loaded, pid, program: program.map(str::to_owned), ..Seen::default() }
    }

    #[test]
    fn installing_does_what_is_missing_and_nothing_else() {
        let plan = |file, seen: &Seen| super::plan(file, "new", Path::new(PROGRAM), seen);
        let running = seen(true, Some(1), Some(PROGRAM));
        assert_eq!(plan(Some("new"), &running), Install::Nothing);
        assert_eq!(plan(Some("new"), &seen(true, Some(1), None)), Install::Nothing);
        assert_eq!(plan(Some("new"), &seen(true, None, None)), Install::Start);
        assert_eq!(plan(None, &seen(false, None, None)), Install::Load);
        assert_eq!(plan(Some("new"), &seen(false, None, None)), Install::Load);
        assert_eq!(plan(Some("old"), &running), Install::Replace);
        assert_eq!(plan(None, &running), Install::Replace);
    }

    #[test]
    fn a_job_of_this_name_that_runs_something_else_is_replaced() {
        let python = seen(true, Some(812), Some("/v/bin/python3"));
        assert_eq!(plan(Some("new"), "new", Path::new(PROGRAM), &python), Install::Replace);
    }

    #[test]
    fn a_job_in_the_wrong_place_is_moved() {
        let misplaced = Seen { misplaced: Some("user/501".into()), ..seen(true, Some(1), Some(PROGRAM)) };
        assert_eq!(plan(Some("new"), "new", Path::new(PROGRAM), &misplaced), Install::Replace);
    }

    #[test]
    fn the_file_is_complete_and_writable_only_by_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("Library/LaunchAgents/job.plist");
        write(&file, "one").unwrap();
        write(&file, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(
            std::fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1,
            "something was left behind"
        );
    }

    #[test]
    fn what_is_replaced_is_kept_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let (file, state) = (folder.path().join("job.plist"), folder.path().join("state"));
        assert_eq!(keep(&file, &state).unwrap(), None);
        write(&file, "mine").unwrap();
        let kept = keep(&file, &state).unwrap().unwrap();
        assert_eq!(kept, state.join("job.plist.replaced"));
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "mine");
    }
}
