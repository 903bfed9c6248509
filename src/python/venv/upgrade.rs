//! A new environment beside the old one, switched to when it has proved itself; and the way back.

use std::path::Path;

use super::marker::{Marker, Verified};
use super::{Environment, SetupError, SetupRequest, Step, existing, generations, install, lock};
use crate::python::requirement;

/// What an upgrade asks of the rest of the program.
pub struct Trial<'a> {
    /// Serves a token with the environment, or says why it cannot.
    pub serve: &'a dyn Fn(&Environment) -> Result<(), String>,
    /// The processes that run from this folder, by this name of it.
    pub users: &'a dyn Fn(&Path) -> Vec<i32>,
}

/// What an upgrade did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// The environment from now on.
    pub environment: Environment,
    /// Every package of the one before; `None`: there was none that works.
    pub before: Option<Vec<String>>,
    /// Whether it was switched; if not, the newest of everything is what was there already.
    pub switched: bool,
}

/// Makes an environment with the newest packages that the registry allows, imports everything, serves with it, and
/// only then puts it in the place of the old one, which stays for [`rollback`].
///
/// # Errors
/// [`SetupError`]; the old environment is untouched then.
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
        // There is nothing to keep.
        let environment = install::run(request, false, progress)?;
        return Ok(Upgraded { environment, before: None, switched: true });
    };
    let pids = if is_folder(venv) { (trial.users)(venv) } else { Vec::new() };
    if !pids.is_empty() {
        return Err(SetupError::InUse { venv: venv.clone(), pids });
    }
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
    // The resolved list says all that can differ.
    if environment.resolved != old.resolved {
        progress(Step::Trying);
        (trial.serve)(&environment).map_err(|why| SetupError::Trial { why })?;
    }
    Ok(environment)
}

/// Puts the environment before the current one back in its place, after importing everything. Done twice, it is as
/// before.
///
/// # Errors
/// [`SetupError::NoPrevious`]; [`SetupError::Verify`] when that one does not work any more, and nothing is switched.
pub fn rollback(
    request: &SetupRequest,
    trial: &Trial<'_>,
    progress: &mut dyn FnMut(Step),
) -> Result<Environment, SetupError> {
    let venv = &request.venv;
    let _lock = lock::take(venv, &mut || progress(Step::Waiting))?;
    let back = generations::previous(venv).ok_or(SetupError::NoPrevious)?;
    let pids = if is_folder(venv) { (trial.users)(venv) } else { Vec::new() };
    if !pids.is_empty() {
        return Err(SetupError::InUse { venv: venv.clone(), pids });
    }
    install::verify(&super::python(&back), progress)?;
    generations::switch(venv, &back).map_err(SetupError::io("cannot switch back"))?;
    existing(request).map_err(|not| SetupError::Verify { why: not.why })
}

/// Whether the place is the environment itself, and no link yet.
fn is_folder(venv: &Path) -> bool {
    venv.symlink_metadata().is_ok_and(|found| found.is_dir())
}
