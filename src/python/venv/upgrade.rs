//! Upgrade to a new environment next to the current one, once it has served a token; and rollback.

use std::path::Path;

use super::marker::{Marker, Verified};
use super::{Environment, SetupError, SetupRequest, Step, existing, generations, install, lock};
use crate::python::requirement;

/// What an upgrade needs from the rest of the program.
pub struct Trial<'a> {
    /// Serves a token with the environment, or returns why it cannot.
    pub serve: &'a dyn Fn(&Environment) -> Result<(), String>,
    /// The pids of processes that run from this folder under this name.
    pub users: &'a dyn Fn(&Path) -> Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// The environment in use after it.
    pub environment: Environment,
    /// All packages of the environment before; `None` if none worked.
    pub before: Option<Vec<String>>,
    /// Whether it switched; if not, everything was already the newest.
    pub switched: bool,
}

/// Creates an environment with the newest packages that the registry allows, imports everything, serves a token with
/// it, and only then switches to it. The old one stays for [`rollback`].
///
/// # Errors
/// [`SetupError`]; the old environment is then untouched.
pub fn upgrade(
    request: &SetupRequest,
    trial: &Trial<'_>,
    progress: &mut dyn FnMut(Step),
) -> Result<Upgraded, SetupError> {
    if let Some(why) = requirement::refused_pin(&request.packages) {
        return Err(SetupError::RefusedVersion(why));
    }
    let venv = &request.venv;
    let _lock = lock::take(venv, &mut || progress(Step::Waiting))?;
    let Some(Marker { verified: old, .. }) = Marker::read(venv).filter(|_| existing(request).is_ok()) else {
        // No working environment to keep.
        let environment = install::run(request, false, progress)?;
        return Ok(Upgraded { environment, before: None, switched: true });
    };
    check_unused(venv, trial)?;
    let next = SetupRequest { venv: generations::free(venv), ..request.clone() };
    let made = make(&next, &old, trial, progress);
    let environment = match made {
        Ok(environment) if environment.resolved != old.resolved => environment,
        other => {
            generations::discard(&next.venv)
                .map_err(SetupError::io("cannot remove the unused environment"))?;
            let _ = other?;
            let before = Some(old.resolved.clone());
            let environment = Environment::of(generations::python(venv), old, None);
            return Ok(Upgraded { environment, before, switched: false });
        }
    };
    generations::switch(venv, &next.venv).map_err(SetupError::io("cannot switch to the new environment"))?;
    generations::prune(venv, &|path| !(trial.users)(path).is_empty());
    Ok(Upgraded { environment, before: Some(old.resolved), switched: true })
}

fn make(
    next: &SetupRequest,
    old: &Verified,
    trial: &Trial<'_>,
    progress: &mut dyn FnMut(Step),
) -> Result<Environment, SetupError> {
    let environment = install::run(next, false, progress)?;
    // Environments with the same resolved packages are the same.
    if environment.resolved != old.resolved {
        progress(Step::Trying);
        (trial.serve)(&environment).map_err(|why| SetupError::Trial { why })?;
    }
    Ok(environment)
}

/// Switches back to the environment before, after importing everything. A second rollback undoes the first.
///
/// # Errors [`SetupError::NoPrevious`]; [`SetupError::Verify`] if that environment no longer works, and then nothing is
/// switched; [`SetupError::InUse`].
pub fn rollback(
    request: &SetupRequest,
    trial: &Trial<'_>,
    progress: &mut dyn FnMut(Step),
) -> Result<Environment, SetupError> {
    let venv = &request.venv;
    let _lock = lock::take(venv, &mut || progress(Step::Waiting))?;
    let back = generations::previous(venv).ok_or(SetupError::NoPrevious)?;
    check_unused(venv, trial)?;
    install::verify(&super::python(&back), progress)?;
    generations::switch(venv, &back).map_err(SetupError::io("cannot switch back"))?;
    existing(request).map_err(|not| SetupError::Verify { why: not.why })
}

/// Refuses to switch while processes use the path itself, which is the environment until it becomes a link.
fn check_unused(venv: &Path, trial: &Trial<'_>) -> Result<(), SetupError> {
    let is_folder = venv.symlink_metadata().is_ok_and(|found| found.is_dir());
    let pids = if is_folder { (trial.users)(venv) } else { Vec::new() };
    if pids.is_empty() { Ok(()) } else { Err(SetupError::InUse { venv: venv.to_owned(), pids }) }
}
