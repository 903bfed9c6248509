//! The exec step: between the supervisor's spawn and Python there is a moment in which this binary runs as
//! `mlxctl __exec <run>/<model>.json`, says who it is, and becomes Python without changing its pid or start time.
//!
//! It exists because a record that is written by the parent is written too late: a supervisor that dies between the
//! spawn and the record would leave an unknown process. It initialises nothing: no arguments parser, no
//! runtime, no log filter.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::record::{record_file, remove, replace};
use super::spec::{Record, Spec};
use crate::host::{self, Identity, posix};

/// The hidden first argument.
const ARGUMENT: &str = "__exec";

/// What a shell says of a command that could not be executed.
const EXIT_CODE: u8 = 127;

/// Python opens a file a shard and a socket a request; launchd starts jobs with a soft limit of 256.
const OPEN_FILES: u64 = 4096;

/// Starts `binary __exec spec_file` and answers with who it is, even if it has failed already. Nobody waits for it
/// here: that is what [`crate::host::Host::watch`] does. Its stderr is the caller's until it has opened the backend's
/// log. `held` (a lock, usually) stays open in it until its record is written: whoever finds it closed finds the
/// record, also when this process is killed here and now.
///
/// Returns as soon as the process exists: nothing is set up between fork and exec, so that the standard library can
/// use `posix_spawn`, whose cost does not grow with the supervisor.
///
/// # Errors
/// The system's own: no such binary, no more processes. Then there is none.
pub fn spawn(binary: &Path, spec_file: &Path, held: File) -> io::Result<Identity> {
    let mut command = Command::new(binary);
    command.arg(ARGUMENT).arg(spec_file).stdin(held).stdout(Stdio::null());
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    host::identify_child(pid).inspect_err(|_| {
        // Who cannot be named cannot be watched. The pid is safe to kill: nobody has waited for it.
        let _ = child.kill();
        let _ = child.wait();
    })
}

/// The spec file, if these are the arguments of an exec step (the program's name first).
pub fn requested(mut arguments: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    (arguments.nth(1)? == ARGUMENT).then(|| arguments.next().unwrap_or_default().into())
}

/// Becomes the backend. Returns the exit code only if that failed, after saying so in the backend's log, or on
/// stderr if there is none.
pub fn run(spec_file: &Path) -> u8 {
    let run = spec_file.parent().unwrap_or(Path::new("."));
    let Err(Obstacle { what, why }) = read_spec(spec_file).and_then(|spec| become_backend(run, spec));
    // After the redirection this is the backend's log. A line that cannot be written has nowhere else to go.
    let _ = writeln!(io::stderr(), "mlxctl: {what}: {why}");
    EXIT_CODE
}

/// What could not be done, and the system's reason.
struct Obstacle {
    what: String,
    why: io::Error,
}

/// Names what an error stood in the way of.
trait Doing<T> {
    fn doing(self, what: impl Display) -> Result<T, Obstacle>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T, Obstacle> {
        self.map_err(|error| Obstacle { what: format!("cannot {what}"), why: error.into() })
    }
}

fn read_spec(path: &Path) -> Result<Spec, Obstacle> {
    let bytes = std::fs::read(path).doing(format_args!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).doing(format_args!("make sense of {}", path.display()))
}

fn become_backend(run: &Path, spec: Spec) -> Result<Infallible, Obstacle> {
    // The standard input is what the supervisor wants held until the record is there.
    let held = io::stdin().as_fd().try_clone_to_owned().doing("keep what was passed on")?;
    crate::fault::point("exec begun");
    redirect(&spec.log)?;
    match nix::unistd::setsid() {
        // Started from a shell for a look, it may lead a group already.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(error) => Err(error).doing("start a session")?,
    }
    posix::reset_signals().doing("reset the signals")?;
    limit();
    if let Err(error) = posix::add_nice(spec.nice) {
        // It serves all the same.
        let _ = writeln!(io::stderr(), "mlxctl: niceness not changed by {}: {error}", spec.nice);
    }
    std::env::set_current_dir(&spec.cwd).doing(format_args!("enter {}", spec.cwd.display()))?;

    let arguments = spec.argv.iter().map(|argument| CString::new(argument.as_bytes()));
    let arguments: Vec<CString> = arguments.collect::<Result<_, _>>().doing("pass an argument")?;
    let variables = spec.env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    let variables: Vec<CString> =
        variables.collect::<Result<_, _>>().doing("pass an environment variable")?;
    let Some(program) = arguments.first() else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).doing("execute nothing");
    };
    let what = format!("execute {}", Path::new(std::ffi::OsStr::from_bytes(program.as_bytes())).display());

    let record = record(run, spec)?;
    crate::fault::point("exec recorded");
    // Closed with everything else, and by number.
    std::mem::forget(held);
    posix::close_inherited();
    let result = nix::unistd::execve(program, &arguments, &variables).doing(what);
    // It names a pid that is about to be nobody's.
    let _ = remove(&record);
    result
}

/// stdout and stderr go to the log, stdin is empty.
fn redirect(log: &Path) -> Result<(), Obstacle> {
    let log_file = OpenOptions::new().append(true).create(true).mode(0o640).open(log);
    let log_file = log_file.doing(format_args!("open the log {}", log.display()))?;
    let nothing = File::open("/dev/null").doing("open /dev/null")?;
    nix::unistd::dup2_stdin(&nothing).doing("redirect stdin")?;
    nix::unistd::dup2_stdout(&log_file).doing("redirect stdout")?;
    nix::unistd::dup2_stderr(&log_file).doing("redirect stderr")
}

/// More open files, no core dumps of tens of gigabytes. Where that is not allowed, it has to do without.
fn limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = OPEN_FILES.min(hard);
        if soft < wanted && soft != RLIM_INFINITY {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

/// Writes who this process is; answers with the file's path.
fn record(run: &Path, spec: Spec) -> Result<PathBuf, Obstacle> {
    let pid = nix::unistd::getpid().as_raw();
    let identity = host::identify(pid).and_then(|who| who.ok_or_else(|| io::ErrorKind::NotFound.into()));
    let identity = identity.doing("learn my own start time")?;
    let boot_id = host::boot_id().doing("learn which boot this is")?;
    let spawned_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let path = record_file(run, &spec.model);
    replace(&path, &Record { spec, identity, boot_id, spawned_at, spawned: Some(host::now()) })
        .doing("record who I am")?;
    Ok(path)
}
