//! The agent: the supervisor as a job of the system's own service manager, whichever that is.

mod launchd;
mod systemd;

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use launchd::LaunchdAgent;
pub(crate) use systemd::SystemdAgent;

/// The agent as its service manager has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Whether the manager knows a job of this name.
    pub loaded: bool,
    pub pid: Option<i32>,
    /// Where it is in a place that it does not belong into: `user/501`, launchd's domain without a screen.
    pub misplaced: Option<String>,
    /// In the manager's words.
    pub state: String,
    /// How it last ended, in one phrase; `None`: it never did, or it is unknown.
    pub last_end: Option<String>,
    /// Starts so far, where the manager counts them.
    pub runs: Option<u64>,
    /// What it runs, where the manager says.
    pub program: Option<String>,
}

/// Why the service manager could not be brought to do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct AgentError {
    /// What, in one line.
    pub what: String,
    pub hint: String,
}

/// A service manager and the one job of it that runs the supervisor.
pub(crate) trait Agent {
    /// What the manager is called: `launchd`, `systemd`.
    fn manager(&self) -> &'static str;

    /// The job's name.
    fn name(&self) -> &str;

    /// The file that describes it.
    fn file(&self) -> &Path;

    /// What that file shall hold.
    fn wanted(&self) -> &str;

    /// What the file on disk (`found`) says otherwise, one line per difference.
    fn differs(&self, found: &str) -> Vec<String>;

    /// The mlxctl that the file on disk (`found`) runs, if it is one of ours.
    fn program_of(&self, found: &str) -> Option<PathBuf>;

    /// The program that the job shall run.
    fn program(&self) -> &Path;

    /// The job as the manager has it now.
    ///
    /// # Errors
    /// The manager is missing or does not answer.
    fn seen(&self) -> Result<Seen, AgentError>;

    /// What `install` would call.
    fn calls(&self, install: Install) -> Vec<String>;

    /// What `uninstall` would call.
    fn calls_to_remove(&self) -> Vec<String>;

    /// Brings the written file into force and the job up; its process. `say` hears of every step.
    ///
    /// # Errors
    /// It does not come up, with why and what to do.
    fn install(&self, install: Install, say: &mut dyn FnMut(&str)) -> Result<i32, AgentError>;

    /// Ends the process, forgets the job and removes its file. Nothing to forget is success.
    ///
    /// # Errors
    /// It does not go; then the file stays too.
    fn remove(&self, say: &mut dyn FnMut(&str)) -> Result<(), AgentError>;

    /// Whether the job is unloaded and loaded again for it, so that the supervisor has to stay until then.
    fn unloads_to_restart(&self) -> bool {
        false
    }

    /// Another process in place of `before`; its pid.
    ///
    /// # Errors
    /// None comes up.
    fn restart(
        &self,
        before: Option<i32>,
        handed: Handed,
        say: &mut dyn FnMut(&str),
    ) -> Result<i32, AgentError>;
}

/// What came of asking the supervisor to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It does not answer.
    No,
    /// It lets what is in flight end and leaves by itself.
    Leaves {
        /// How long that takes at most.
        drain: Duration,
    },
    /// Nothing is in flight any more, and it stays until it is told to end.
    Holds,
}

/// What is to be done so that the agent is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    /// It runs from this very file.
    Nothing,
    /// It is loaded from this very file, and has no process.
    Start,
    /// The manager does not know it.
    Load,
    /// The manager has another one of this name: unload that first.
    Replace,
}

/// Compares what is there with what is wanted. `file` is the content on disk, if there is any.
pub(crate) fn plan(file: Option<&str>, wanted: &str, program: &Path, seen: &Seen) -> Install {
    if !seen.loaded {
        return Install::Load;
    }
    // What is loaded may be older than the file: only the program tells, and only where it is named.
    let other = seen.program.as_deref().is_some_and(|running| Path::new(running) != program);
    match (file == Some(wanted) && !other && seen.misplaced.is_none(), seen.pid) {
        (false, _) => Install::Replace,
        (true, None) => Install::Start,
        (true, Some(_)) => Install::Nothing,
    }
}

/// Writes `text` as the whole file: complete or not at all, this user's, mode 0644 (launchd refuses a file that
/// others may write). The folder is made if it is missing.
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

/// Keeps the file that is about to be replaced, below `state`; where it went, if there was one. Not beside the
/// original: the manager reads that folder at login.
pub(crate) fn keep(file: &Path, state: &Path) -> io::Result<Option<PathBuf>> {
    let Some(name) = file.file_name().filter(|_| file.exists()) else { return Ok(None) };
    let mut kept = name.to_owned();
    kept.push(".replaced");
    let kept = state.join(kept);
    fs_err::create_dir_all(state)?;
    fs_err::copy(file, &kept)?;
    Ok(Some(kept))
}

/// Removes the file; one that is not there is success.
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
    fn the_file_is_whole_and_nobody_elses() {
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
