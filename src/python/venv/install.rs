//! Creates, fills and verifies an environment. The caller holds the lock.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use nix::unistd::AccessFlags;

use super::super::diagnose::{self, Diagnosis};
use super::super::interpreter;
use super::super::process::{self, Ended};
use super::super::requirement;
use super::marker::{Marker, Verified};
use super::{Environment, SetupError, SetupRequest, Step, generations, lock, python};
use crate::environment;
use crate::host::posix;
use crate::units::Bytes;

const VERIFY: &str = include_str!("../verify_venv.py");

/// Free space that an installation needs. Measured on Linux: 0.35 GB for the CPU build, about what a Mac unpacks too,
/// and half as much again while wheels are unpacked.
const NEEDED: Bytes = Bytes::mb(600);
/// The same for the CUDA build.
const NEEDED_CUDA: Bytes = Bytes::gb(8);

/// What exists at the environment's path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    Usable {
        ours: bool,
    },
    /// Cannot be used. If `ours`, it may be removed; otherwise it is moved aside.
    Rubble {
        why: String,
        ours: bool,
    },
    Foreign(String),
}

/// Inspects the environment's path. If that fails, the error is returned, so that nothing is removed.
fn find(venv: &Path, interpreter: Option<&Path>) -> Result<Found, SetupError> {
    let begun = there(&lock::beside(venv, "mlxctl-building"))?;
    let entries = match fs_err::read_dir(venv) {
        Ok(entries) => entries,
        Err(error) => {
            return match (error.kind(), venv.symlink_metadata()) {
                (ErrorKind::NotFound, Ok(link)) if link.is_symlink() => {
                    Ok(Found::Foreign(crate::registry::dangling(venv)))
                }
                (ErrorKind::NotFound, Err(_)) => Ok(Found::Nothing),
                (ErrorKind::NotADirectory, _) => Ok(Found::Foreign("it is not a folder".to_owned())),
                _ => Err(unseen(venv, error)),
            };
        }
    };
    if entries.count() == 0 {
        return Ok(Found::Nothing);
    }
    if begun {
        return Ok(Found::Rubble { why: "an earlier `mlxctl setup` did not finish".to_owned(), ours: true });
    }
    if !there(&venv.join("pyvenv.cfg"))? {
        return Ok(Found::Foreign("it holds files and is not a virtual environment".to_owned()));
    }
    let marker = Marker::read(venv);
    let ours = marker.is_some();
    if !there(&python(venv))? {
        return Ok(Found::Rubble { why: "its interpreter is gone".to_owned(), ours });
    }
    // The disk may be mounted noexec, or the folder of its base Python closed to this user.
    nix::unistd::access(&python(venv), AccessFlags::X_OK)
        .map_err(|error| unseen(&python(venv), error.into()))?;
    if let (Some(marker), Some(path)) = (marker, interpreter)
        && interpreter::probe(path).probe.is_ok_and(|probe| probe.prefix != marker.verified.base)
    {
        return Ok(Found::Rubble { why: format!("its interpreter should now be {}", path.display()), ours });
    }
    // An environment does not need a venv module itself, hence `uv: true`.
    let platform = interpreter::Platform { macos: cfg!(target_os = "macos"), uv: true };
    let probed = interpreter::probe_or_passing(&python(venv)).map_err(|why| SetupError::Io {
        what: format!("cannot try the interpreter of {}", venv.display()),
        why: format!("{why}; the environment is left as it is"),
    })?;
    match interpreter::choose(&[probed], platform) {
        Ok(_) => Ok(Found::Usable { ours }),
        Err(none) => {
            let why = none.refused.into_iter().map(|(_, why)| why).next().unwrap_or_default();
            if ours {
                Ok(Found::Rubble { why, ours })
            } else {
                Ok(Found::Foreign(format!("its interpreter does not fit: {why}")))
            }
        }
    }
}

fn there(path: &Path) -> Result<bool, SetupError> {
    path.try_exists().map_err(|error| unseen(path, error))
}

fn unseen(path: &Path, error: std::io::Error) -> SetupError {
    SetupError::Io {
        what: format!("cannot look at {}", path.display()),
        why: format!("{error}; the environment is left as it is"),
    }
}

/// With `good`, the marker is right, and only verification is needed.
pub(super) fn run(
    request: &SetupRequest,
    good: bool,
    progress: &mut dyn FnMut(Step),
) -> Result<Environment, SetupError> {
    let venv = &request.venv;
    let building = lock::beside(venv, "mlxctl-building");
    if good && let Ok(environment) = finish(request, progress) {
        return Ok(environment);
    }
    let ours = match find(venv, request.interpreter.as_deref())? {
        Found::Foreign(why) => return Err(SetupError::NotOurs { venv: venv.clone(), why }),
        Found::Nothing => {
            create(request, &building, progress)?;
            true
        }
        Found::Rubble { why, ours } => {
            progress(Step::Discarding(why));
            if !ours {
                set_aside(venv)?;
            }
            create(request, &building, progress)?;
            true
        }
        Found::Usable { ours } => {
            if ours {
                // Keep what works if the new requirements cannot be met.
                install(request, &["--dry-run"], progress)?;
                touch(&building)?;
            } else {
                progress(Step::Adopting);
            }
            Marker::remove(venv).map_err(SetupError::io("cannot change the virtual environment"))?;
            ours
        }
    };
    let mut done = install(request, &[], progress).and_then(|()| finish(request, progress));
    if !ours && matches!(done, Err(SetupError::Verify { .. })) {
        // A folder made by another tool is never removed, so broken packages in it are reinstalled.
        done = install(request, &["--force-reinstall"], progress).and_then(|()| finish(request, progress));
    }
    if done.is_ok() {
        // Must succeed: left behind, it would make the next setup remove a good environment.
        fs_err::remove_file(&building)
            .or_else(|error| if building.exists() { Err(error) } else { Ok(()) })
            .map_err(SetupError::io("cannot finish the virtual environment"))?;
    }
    done
}

/// Renames a folder made by another tool to the first free `<name>.old-N` next to it.
fn set_aside(venv: &Path) -> Result<(), SetupError> {
    let name = venv.file_name().unwrap_or_default().to_string_lossy();
    let free = (1..=u32::MAX)
        .map(|n| venv.with_file_name(format!("{name}.old-{n}")))
        .find(|path| path.symlink_metadata().is_err());
    free.map_or(Ok(()), |path| fs_err::rename(venv, path))
        .map_err(SetupError::io("cannot move the broken virtual environment aside"))
}

fn touch(building: &Path) -> Result<(), SetupError> {
    fs_err::write(building, "a virtual environment that mlxctl setup has not finished\n")
        .map_err(SetupError::io("cannot create the virtual environment"))
}

fn create(request: &SetupRequest, building: &Path, progress: &mut dyn FnMut(Step)) -> Result<(), SetupError> {
    let venv = &request.venv;
    let cuda = request.requirements().iter().any(|text| text.contains("cuda"));
    check_space(venv, if cuda { NEEDED_CUDA } else { NEEDED })?;
    let found = interpreter::find(request.interpreter.as_deref(), request.uv.as_deref())
        .map_err(SetupError::NoInterpreter)?;
    touch(building)?;
    if venv.symlink_metadata().is_ok() {
        fs_err::remove_dir_all(venv)
            .map_err(SetupError::io("cannot remove what is left of the environment"))?;
    }
    progress(Step::Creating(found.clone()));
    let mut command;
    if let Some(uv) = &request.uv {
        command = process::command(uv);
        command.args(["venv", "--no-project", "--python"]).arg(&found.path);
    } else {
        command = process::command(&found.path);
        command.args(["-m", "venv"]);
    }
    // The prompt of a shell that has activated it: without the number.
    command.arg("--prompt").arg(generations::name(venv)).arg(venv);
    installer(command, progress)
}

/// Fails early if the packages will not fit.
fn check_space(venv: &Path, needed: Bytes) -> Result<(), SetupError> {
    let Some(free) = posix::free_space(venv).filter(|free| *free < needed) else { return Ok(()) };
    Err(SetupError::Io {
        what: format!("there is too little disk space for {}", venv.display()),
        why: format!("the packages need about {needed}, and {free} is free"),
    })
}

fn install(
    request: &SetupRequest,
    options: &[&str],
    progress: &mut dyn FnMut(Step),
) -> Result<(), SetupError> {
    let requirements = request.requirements();
    progress(Step::Installing(requirements.clone()));
    let python = python(&request.venv);
    let mut command;
    if let Some(uv) = &request.uv {
        command = process::command(uv);
        command.args(["pip", "install", "--python"]).arg(&python);
    } else {
        provide_pip(&python)?;
        command = process::command(&python);
        command.envs(pip_sources(&python));
        command.args([
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            // Overrides the user's pip settings: install here and nowhere else.
            "--no-user",
            "--target=",
        ]);
    }
    command.args(options).args(&requirements);
    installer(command, progress)
}

/// Variables that keep the user's pip settings on where packages come from, but not on where they go: pip would follow
/// `user = true` or a `target` here too. Empty if pip cannot read its settings, which it then reports itself.
fn pip_sources(python: &Path) -> Vec<(String, String)> {
    // `pip config list` omits a file named by this variable.
    if std::env::var_os("PIP_CONFIG_FILE").is_some() {
        return Vec::new();
    }
    let mut command = process::command(python);
    command.args(["-m", "pip", "config", "list"]);
    let Ok(listed) = process::output(command, std::time::Duration::from_secs(60)) else { return Vec::new() };
    let mut found = environment::pip_sources(&listed);
    found.push(("PIP_CONFIG_FILE".to_owned(), "/dev/null".to_owned()));
    found
}

/// Installs pip if it is missing: an environment made by uv has none, and uv may be gone by now.
fn provide_pip(python: &Path) -> Result<(), SetupError> {
    let module = |arguments: &[&str]| {
        let mut command = process::command(python);
        command.args(arguments);
        process::output(command, std::time::Duration::from_secs(120))
    };
    if module(&["-m", "pip", "--version"]).is_ok() {
        return Ok(());
    }
    module(&["-m", "ensurepip", "--upgrade"]).map(drop).map_err(|why| {
        let hint = "install uv, or move the virtual environment away and run `mlxctl setup` again".to_owned();
        SetupError::Install(Diagnosis { why: format!("there is no pip in it, and {why}"), hint })
    })
}

fn installer(command: Command, progress: &mut dyn FnMut(Step)) -> Result<(), SetupError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Ended { status, lines } =
        process::stream(command, &mut |line| progress(Step::Output(line.to_owned())))
            .map_err(SetupError::io(format!("cannot run {program}")))?;
    if status.success() { Ok(()) } else { Err(SetupError::Install(diagnose::installer(&lines))) }
}

/// Verifies the environment and writes the marker.
fn finish(request: &SetupRequest, progress: &mut dyn FnMut(Step)) -> Result<Environment, SetupError> {
    let verified = verify(&python(&request.venv), progress)?;
    let marker = Marker::new(request.requirements(), request.hash(), verified);
    marker.write(&request.venv).map_err(SetupError::io("cannot mark the virtual environment as whole"))?;
    generations::give_alias(&request.venv)
        .map_err(SetupError::io("cannot make the second name of the virtual environment"))?;
    Ok(Environment::of(generations::python(&request.venv), marker.verified, None))
}

/// Imports all packages and refuses an mlx-lm that is too old.
pub(super) fn verify(python: &Path, progress: &mut dyn FnMut(Step)) -> Result<Verified, SetupError> {
    progress(Step::Verifying);
    let mut command = process::command(python);
    command.env("HF_HUB_OFFLINE", "1").args(["-c", VERIFY]);
    let ended = process::stream(command, &mut |_| {})
        .map_err(SetupError::io(format!("cannot run {}", python.display())))?;
    let last = |lines: &[String]| lines.iter().rev().find(|line| !line.trim().is_empty()).cloned();
    let broken =
        |why: Option<String>| SetupError::Verify { why: why.unwrap_or_else(|| ended.status.to_string()) };
    if !ended.status.success() {
        return Err(broken(last(&ended.lines)));
    }
    // Warnings on stderr may follow the answer.
    let verified: Verified = ended
        .lines
        .iter()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())
        .ok_or_else(|| broken(last(&ended.lines)))?;
    match requirement::refused_mlx_lm(&verified.versions.mlx_lm) {
        Some(why) => Err(SetupError::RefusedVersion(why)),
        None => Ok(verified),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    #[test]
    fn what_lies_at_the_place_is_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let venv = root.path().join("venv");
        let find = |venv: &Path| super::find(venv, None).unwrap();
        assert_eq!(find(&venv), Found::Nothing);
        fs::create_dir(&venv).unwrap();
        assert_eq!(find(&venv), Found::Nothing);
        fs::write(venv.join("thesis.tex"), "years of work").unwrap();
        assert!(matches!(find(&venv), Found::Foreign(_)));
        fs::write(venv.join("pyvenv.cfg"), "home = /gone").unwrap();
        assert!(matches!(find(&venv), Found::Rubble { why, ours: false } if why.contains("interpreter")));
        touch(&lock::beside(&venv, "mlxctl-building")).unwrap();
        assert!(matches!(find(&venv), Found::Rubble { why, ours: true } if why.contains("did not finish")));
    }

    #[test]
    fn a_file_at_the_place_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        let venv = root.path().join("venv");
        fs::write(&venv, "a file").unwrap();
        assert!(matches!(find(&venv, None).unwrap(), Found::Foreign(_)));
    }

    #[test]
    fn a_link_to_a_disk_that_is_away_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let venv = root.path().join("venv");
        fs_err::os::unix::fs::symlink("/Volumes/Away/venv", &venv).unwrap();
        assert!(matches!(find(&venv, None).unwrap(), Found::Foreign(why) if why.contains("/Volumes/Away")));
    }

    /// A file that may not be executed stands for a closed folder and for a disk without programs, for root as well.
    #[test]
    fn an_interpreter_that_may_not_be_run_costs_no_environment() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let venv = root.path().join("venv");
        fs::create_dir_all(venv.join("bin")).unwrap();
        fs::write(venv.join("pyvenv.cfg"), "").unwrap();
        fs::write(python(&venv), "#!/bin/sh\n").unwrap();
        fs::set_permissions(python(&venv), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = find(&venv, None).unwrap_err();
        assert!(
            matches!(&error, SetupError::Io { why, .. } if why.contains("ermission denied")),
            "{error:?}"
        );
    }
}
