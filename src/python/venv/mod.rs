//! The virtual environment of the backends.
//!
//! A marker inside says that it is complete; it is written last and removed first. A file next to it
//! (`.<name>.mlxctl-building`) says that mlxctl began the folder, so it may be removed. That way the next setup
//! recognises whatever a killed one leaves behind.
//!
//! An upgrade creates a second one, and the environment's path becomes a link that is switched.

mod generations;
mod install;
mod lock;
mod marker;
mod upgrade;

use std::path::{Path, PathBuf};

pub(crate) use marker::Versions;
pub(crate) use marker::{Marker, Verified};
pub use upgrade::{Trial, Upgraded, rollback, upgrade};

use super::interpreter::{self, Interpreter, NoInterpreter};
use super::requirement::{self, DriverVersion};
use crate::registry::dangling;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupRequest {
    pub venv: PathBuf,
    pub packages: Vec<String>,
    pub interpreter: Option<PathBuf>,
    /// The loaded NVIDIA driver, if there is one.
    pub nvidia: Option<DriverVersion>,
    /// Path of `uv`, which is preferred to pip.
    pub uv: Option<PathBuf>,
    /// Whether to import everything even if the marker says that it is complete.
    pub verify: bool,
}

impl SetupRequest {
    /// The request for this registry on this machine.
    pub fn new(registry: &crate::registry::Registry, verify: bool) -> Self {
        Self { uv: interpreter::program("uv"), verify, ..Self::to_look(registry) }
    }

    /// Like [`new`](Self::new), but only for [`existing`]: does not search `PATH` for `uv`, which only installing
    /// needs.
    pub fn to_look(registry: &crate::registry::Registry) -> Self {
        Self {
            venv: registry.paths.venv.clone(),
            packages: registry.python.packages.clone(),
            interpreter: registry.python.interpreter.clone(),
            nvidia: nvidia_driver(),
            uv: None,
            verify: false,
        }
    }

    fn requirements(&self) -> Vec<String> {
        requirement::requirements(&self.packages, std::env::consts::OS, self.nvidia)
    }

    fn hash(&self) -> String {
        let interpreter = self.interpreter.iter().map(|path| format!("on {}", path.display()));
        requirement::hash(&self.requirements().into_iter().chain(interpreter).collect::<Vec<_>>())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    pub python: PathBuf,
    pub versions: Versions,
    /// All packages with their versions.
    pub resolved: Vec<String>,
    /// Why `mlxctl setup` would change it, if the registry differs by now. It still works.
    pub outdated: Option<String>,
    /// What macOS lets the GPU hold by default; see [`Verified::gpu_limit`].
    pub gpu_limit: Option<crate::units::Bytes>,
}

/// Progress of a setup or upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Waiting for another setup, or for the installer of a killed one.
    Waiting,
    /// Creating the environment with this interpreter.
    Creating(Interpreter),
    /// Reusing an environment made by another tool.
    Adopting,
    /// Removing an unfinished or broken environment; why.
    Discarding(String),
    /// Installing these requirements.
    Installing(Vec<String>),
    /// A line of the installer's output.
    Output(String),
    Verifying,
    /// Serving the tiny model with the new environment.
    Trying,
}

/// Why there is no usable environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    pub why: String,
    pub hint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("no Python here can run MLX")]
    NoInterpreter(NoInterpreter),
    /// An mlx-lm that is too old; why that matters.
    #[error("{0}")]
    RefusedVersion(String),
    /// Something else exists at the path.
    #[error("{} cannot be used as the virtual environment", .venv.display())]
    NotOurs { venv: PathBuf, why: String },
    #[error("the packages could not be installed")]
    Install(super::diagnose::Diagnosis),
    /// Everything is installed, but an import fails.
    #[error("the installed packages do not work")]
    Verify { why: String },
    /// The new environment cannot serve; the current one is untouched.
    #[error("the new environment cannot serve a model; keeping the current one")]
    Trial { why: String },
    /// There is no environment to go back to.
    #[error("there is no earlier Python environment")]
    NoPrevious,
    /// Processes use the path that would be switched.
    #[error("{} is in use under its real name", .venv.display())]
    InUse { venv: PathBuf, pids: Vec<i32> },
    /// A file could not be created, read or removed.
    #[error("{what}")]
    Io { what: String, why: String },
}

impl SetupError {
    /// The cause, in addition to the error's own text.
    pub fn why(&self) -> Option<String> {
        match self {
            Self::NoInterpreter(none) => Some(none.to_string()),
            Self::RefusedVersion(_) => None,
            Self::NoPrevious => {
                Some("nothing was upgraded yet, or the previous environment was removed by hand".to_owned())
            }
            Self::InUse { pids, .. } => {
                let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
                Some(format!("process {} runs from it and would import from the new one", pids.join(", ")))
            }
            Self::NotOurs { why, .. } | Self::Verify { why } | Self::Trial { why } | Self::Io { why, .. } => {
                Some(why.clone())
            }
            Self::Install(diagnosis) => Some(diagnosis.why.clone()),
        }
    }

    pub fn hint(&self) -> String {
        match self {
            Self::NoInterpreter(none) => none.hint.clone(),
            Self::RefusedVersion(_) => {
                "set packages = [\"mlx-lm==0.32.2\"] in [python] of the registry".to_owned()
            }
            Self::NotOurs { venv, .. } => {
                format!("move {} away, or set another `venv` in [paths]; nothing was changed", venv.display())
            }
            Self::Install(diagnosis) => diagnosis.hint.clone(),
            Self::Verify { .. } => {
                "check `packages` in [python] of the registry, then `mlxctl setup --verify`".to_owned()
            }
            Self::Trial { .. } => {
                "`mlxctl -v setup --upgrade` shows more; pin what broke it in `packages` of [python]"
                    .to_owned()
            }
            Self::NoPrevious => "`mlxctl setup --upgrade` keeps the one before".to_owned(),
            Self::InUse { .. } => {
                "stop it, run this command again, and start it; this is needed only once".to_owned()
            }
            Self::Io { .. } => {
                "check owner, mode and free space of the folder, then run `mlxctl setup` again".to_owned()
            }
        }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| {
            let why = match error.kind() {
                std::io::ErrorKind::StorageFull => format!("no disk space is left ({error})"),
                _ => error.to_string(),
            };
            Self::Io { what, why }
        }
    }
}

pub fn python(venv: &Path) -> PathBuf {
    venv.join("bin/python")
}

/// Checks the environment with a few `stat`s, as the supervisor does before a spawn.
///
/// # Errors
/// Why it cannot be used, and what to do.
pub fn existing(request: &SetupRequest) -> Result<Environment, NotReady> {
    let venv = &request.venv;
    let not = |why: String| Err(NotReady { why, hint: "mlxctl setup".to_owned() });
    let place = venv.display();
    // Another environment would not help.
    let unseen = |path: &Path, error: &std::io::Error| {
        Err(NotReady {
            why: format!("the virtual environment at {place} cannot be used: {}: {error}", path.display()),
            hint: "correct the owner and mode of that path, and of the folders above it".to_owned(),
        })
    };
    match fs_err::metadata(venv) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return not(format!("{place} is not a virtual environment: it is a file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return match venv.symlink_metadata() {
                Ok(_) => Err(NotReady {
                    why: format!("there is no virtual environment at {place}: {}", dangling(venv)),
                    hint: "mount that disk, or set another `venv` in [paths]".to_owned(),
                }),
                Err(_) => not(format!("there is no virtual environment at {place}")),
            };
        }
        Err(error) => return unseen(venv, &error),
    }
    if let Err(error) = fs_err::File::open(venv.join(marker::FILE))
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return unseen(&venv.join(marker::FILE), &error);
    }
    let Some(marker) = Marker::read(venv) else {
        return not(format!("the virtual environment at {place} is incomplete or was never verified"));
    };
    // The numbered name, which stays valid after a switch: Python imports while it runs.
    let python = generations::python(venv);
    match python.try_exists() {
        Ok(true) => {}
        Ok(false) => {
            return not(format!(
                "the interpreter of {place} is gone: {} was removed",
                marker.verified.base.display()
            ));
        }
        Err(error) => return unseen(&python, &error),
    }
    if let Err(error) = nix::unistd::access(&python, nix::unistd::AccessFlags::X_OK) {
        return unseen(&python, &error.into());
    }
    if let Some(gone) = marker.verified.evidence.iter().find(|path| !path.try_exists().unwrap_or(true)) {
        return not(format!("the packages in {place} were changed by hand: {} is gone", gone.display()));
    }
    let outdated = (marker.requirements != request.hash()).then(|| {
        let (made, asked) = (marker.requested.join(" "), request.requirements().join(" "));
        format!("it was made for {made}, but the registry asks for {asked}")
    });
    Ok(Environment::of(python, marker.verified, outdated))
}

impl Environment {
    fn of(python: PathBuf, verified: Verified, outdated: Option<String>) -> Self {
        let Verified { versions, resolved, gpu_limit, .. } = verified;
        Self { python, versions, resolved, outdated, gpu_limit }
    }
}

/// Creates the environment or brings it up to date. Runs no program if there is nothing to do (unless `verify`).
///
/// # Errors
/// [`SetupError`]; the next setup recognises what is left unfinished.
pub fn setup(request: &SetupRequest, progress: &mut dyn FnMut(Step)) -> Result<Environment, SetupError> {
    if let Some(why) = requirement::refused_pin(&request.packages) {
        return Err(SetupError::RefusedVersion(why));
    }
    let good = || existing(request).ok().filter(|found| found.outdated.is_none());
    if let Some(found) = good().filter(|_| !request.verify) {
        return Ok(found);
    }
    let _lock = lock::take(&request.venv, &mut || progress(Step::Waiting))?;
    // Another setup may have finished the work while this one waited.
    match good() {
        Some(found) if !request.verify => Ok(found),
        found => install::run(request, found.is_some(), progress),
    }
}

/// The loaded NVIDIA driver (Linux), without running a program.
pub(crate) fn nvidia_driver() -> Option<DriverVersion> {
    DriverVersion::parse(&fs_err::read_to_string("/proc/driver/nvidia/version").ok()?)
}
