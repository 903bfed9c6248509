//! The exec step: between the supervisor's spawn and Python, this binary runs as `mlxctl __exec <run>/<model>.json`,
//! records its identity, and becomes Python without changing its pid or start time.
//!
//! A record written by the parent would come too late: a supervisor that died between spawn and record would leave an
//! unknown process. For speed it initialises nothing: no argument parser, no runtime, no log filter.

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

/// The hidden first argument of an exec step.
const ARGUMENT: &str = "__exec";

/// As a shell's for a command that could not be executed.
const EXIT_CODE: u8 = 127;

/// Soft limit of open files. Python opens a file per shard and a socket per request; launchd's default is 256.
const OPEN_FILES: u64 = 4096;

/// Starts `binary __exec spec_file` and returns its identity, even if it has failed already. It is not waited for here
/// but by [`crate::host::Host::watch`]. Its stderr is the caller's until it has opened the backend's log. `held`
/// (usually a lock) stays open in the child until its record is written, even if this process is killed right now: once
/// it is closed, the record is there.
///
/// Returns as soon as the process exists. Nothing is set up between fork and exec, so that the standard library can use
/// `posix_spawn`, whose cost does not grow with the supervisor's memory.
///
/// # Errors
/// The system's: no such binary, no more processes. Then no process is left.
pub fn spawn(binary: &Path, spec_file: &Path, held: File) -> io::Result<Identity> {
    let mut command = Command::new(binary);
    command.arg(ARGUMENT).arg(spec_file).stdin(held).stdout(Stdio::null());
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    host::identify_child(pid).inspect_err(|_| {
        // A process without an identity cannot be watched. Its pid is safe to kill: it has not been waited for.
        let _ = child.kill();
        let _ = child.wait();
    })
}

/// The spec file, if these (with the program's name first) are the arguments of an exec step.
pub fn requested(mut arguments: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    (arguments.nth(1)? == ARGUMENT).then(|| arguments.next().unwrap_or_default().into())
}

/// Becomes the backend. Only returns, with the exit code, if that failed; the reason is in the backend's log, or on
/// stderr if the log could not be opened.
pub fn run(spec_file: &Path) -> u8 {
    let run = spec_file.parent().unwrap_or(Path::new("."));
    let Err(Obstacle { what, why }) = read_spec(spec_file).and_then(|spec| become_backend(run, spec));
    // After the redirection stderr is the backend's log. There is nowhere else to report a failed write.
    let _ = writeln!(io::stderr(), "mlxctl: {what}: {why}");
    EXIT_CODE
}

/// A failed operation, and the system's reason.
struct Obstacle {
    what: String,
    why: io::Error,
}

/// Adds the operation that failed to an error.
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
    serde_json::from_slice(&bytes).doing(format_args!("parse {}", path.display()))
}

fn become_backend(run: &Path, spec: Spec) -> Result<Infallible, Obstacle> {
    // Standard input is what the supervisor wants held until the record is written.
    let held = io::stdin().as_fd().try_clone_to_owned().doing("duplicate stdin")?;
    crate::fault::point("exec begun");
    redirect(&spec.log)?;
    match nix::unistd::setsid() {
        // Started from a shell, it may lead a process group already.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(error) => Err(error).doing("start a session")?,
    }
    posix::reset_signals().doing("reset the signals")?;
    limit();
    if let Err(error) = posix::add_nice(spec.nice) {
        // Not worth failing for.
        let _ = writeln!(io::stderr(), "mlxctl: niceness not changed by {}: {error}", spec.nice);
    }
    std::env::set_current_dir(&spec.cwd).doing(format_args!("enter {}", spec.cwd.display()))?;

    let arguments = spec.argv.iter().map(|argument| CString::new(argument.as_bytes()));
    let arguments: Vec<CString> = arguments.collect::<Result<_, _>>().doing("pass an argument")?;
    let variables = spec.env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    let variables: Vec<CString> =
        variables.collect::<Result<_, _>>().doing("pass an environment variable")?;
    let Some(program) = arguments.first() else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).doing("execute an empty command");
    };
    let what = format!("execute {}", Path::new(std::ffi::OsStr::from_bytes(program.as_bytes())).display());

    let record = record(run, spec)?;
    crate::fault::point("exec recorded");
    // `close_inherited` closes it by number, so its destructor must not run.
    std::mem::forget(held);
    posix::close_inherited();
    let result = nix::unistd::execve(program, &arguments, &variables).doing(what);
    // The record names a process that is about to end.
    let _ = remove(&record);
    result
}

/// Sends stdout and stderr to the log and makes stdin empty.
fn redirect(log: &Path) -> Result<(), Obstacle> {
    let log_file = OpenOptions::new().append(true).create(true).mode(0o640).open(log);
    let log_file = log_file.doing(format_args!("open the log {}", log.display()))?;
    let nothing = File::open("/dev/null").doing("open /dev/null")?;
    nix::unistd::dup2_stdin(&nothing).doing("redirect stdin")?;
    nix::unistd::dup2_stdout(&log_file).doing("redirect stdout")?;
    nix::unistd::dup2_stderr(&log_file).doing("redirect stderr")
}

/// Allows more open files, and no core dumps of tens of gigabytes. Best effort.
fn limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = OPEN_FILES.min(hard);
        if soft < wanted && soft != RLIM_INFINITY {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

/// Writes the record of this process; returns the file's path.
fn record(run: &Path, spec: Spec) -> Result<PathBuf, Obstacle> {
    let pid = nix::unistd::getpid().as_raw();
    let identity = host::identify(pid).and_then(|who| who.ok_or_else(|| io::ErrorKind::NotFound.into()));
    let identity = identity.doing("determine its own start time")?;
    let boot_id = host::boot_id().doing("determine the boot id")?;
    let spawned_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let path = record_file(run, &spec.model);
    replace(&path, &Record { spec, identity, boot_id, spawned_at, spawned: Some(host::now()) })
        .doing("write its record")?;
    Ok(path)
}
