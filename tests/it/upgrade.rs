//! An upgrade is tested before it replaces what works, and it can be undone.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use mlxctl::internals::backend::trial;
use mlxctl::internals::python::venv::{self, Environment, SetupError, SetupRequest, Step, Trial, Upgraded};

use crate::real;
use crate::setup::Machine;
use crate::support::program;

const NEWER: &str = r#""mlx==0.33.0""#;

fn upgrade(machine: &Machine) -> Result<Upgraded, SetupError> {
    let trial = Trial { serve: &|_| Ok(()), users: &|_| Vec::new() };
    venv::upgrade(&machine.request(), &trial, &mut |_| {})
}

fn rollback(machine: &Machine) -> Result<Environment, SetupError> {
    let trial = Trial { serve: &|_| Ok(()), users: &|_| Vec::new() };
    venv::rollback(&machine.request(), &trial, &mut |_| {})
}

/// The numbered environments next to the link.
fn generations(machine: &Machine) -> Vec<String> {
    let names = fs::read_dir(machine.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".venv.") && name.ends_with(|c: char| c.is_ascii_digit()))
        .collect();
    names.sort();
    names
}

#[test]
fn the_new_environment_is_imported_and_serves_before_the_switch() {
    let machine = Machine::new();
    let old = machine.setup().unwrap();
    machine.write("resolved", NEWER);
    machine.calls();
    let tried = RefCell::new(Vec::new());
    let serve = |environment: &Environment| {
        tried.borrow_mut().push(environment.python.clone());
        assert_eq!(venv::existing(&machine.request()).unwrap().python, old.python, "not switched yet");
        Ok(())
    };
    let mut steps = Vec::new();
    let trial = Trial { serve: &serve, users: &|_| Vec::new() };
    let done = venv::upgrade(&machine.request(), &trial, &mut |step| steps.push(step)).unwrap();
    assert_eq!(machine.calls(), ["venv", "install", "verify"]);
    assert_eq!(steps.last(), Some(&Step::Trying));
    assert!(done.switched);
    assert_eq!(done.before, Some(vec!["mlx==0.32.4".to_owned()]));
    assert_eq!(done.environment.resolved, ["mlx==0.33.0"]);
    assert_eq!(*tried.borrow(), std::slice::from_ref(&done.environment.python));
    let now = venv::existing(&machine.request()).unwrap();
    assert_eq!((&now.python, now.outdated), (&done.environment.python, None));
    assert_ne!(now.python, old.python);
    assert!(old.python.exists(), "processes that run from it continue");
    assert!(machine.path("venv/bin/python").exists(), "the path is unchanged");
    machine.calls();
    machine.setup().unwrap();
    assert_eq!(machine.calls(), [""; 0], "a setup finds it complete");
}

#[test]
fn an_environment_that_cannot_serve_is_discarded() {
    let machine = Machine::new();
    let old = machine.setup().unwrap();
    machine.write("resolved", NEWER);
    let trial = Trial { serve: &|_| Err("Metal is away".to_owned()), users: &|_| Vec::new() };
    let error = venv::upgrade(&machine.request(), &trial, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("keeping the current one"));
    assert_eq!(error.why().unwrap(), "Metal is away");
    assert_eq!(machine.setup(), Ok(old));
    assert_eq!(generations(&machine), [".venv.1"]);
}

#[test]
fn packages_that_cannot_be_installed_leave_what_works() {
    let machine = Machine::new();
    let old = machine.setup().unwrap();
    machine.write("pip", "echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1\n");
    assert!(matches!(upgrade(&machine), Err(SetupError::Install(_))));
    assert_eq!(venv::existing(&machine.request()), Ok(old));
    assert_eq!(generations(&machine), [".venv.1"]);
}

#[test]
fn without_newer_packages_nothing_is_switched() {
    let machine = Machine::new();
    let old = machine.setup().unwrap();
    let trial = Trial { serve: &|_| panic!("there is nothing to try"), users: &|_| Vec::new() };
    let done = venv::upgrade(&machine.request(), &trial, &mut |_| {}).unwrap();
    assert!(!done.switched);
    assert_eq!(done.environment, old);
    assert_eq!(generations(&machine), [".venv.1"]);
}

#[test]
fn the_previous_environment_comes_back_and_goes_again() {
    let machine = Machine::new();
    let old = machine.setup().unwrap();
    assert_eq!(rollback(&machine), Err(SetupError::NoPrevious));
    machine.write("resolved", NEWER);
    let new = upgrade(&machine).unwrap().environment;
    assert_eq!(rollback(&machine), Ok(old.clone()));
    assert_eq!(venv::existing(&machine.request()), Ok(old));
    assert_eq!(rollback(&machine), Ok(new));
}

#[test]
fn a_previous_environment_that_no_longer_works_is_not_restored() {
    let machine = Machine::new();
    let old = machine.setup().unwrap();
    machine.write("resolved", NEWER);
    let new = upgrade(&machine).unwrap().environment;
    program::write(&old.python, "#!/bin/sh\necho 'broken' >&2\nexit 1\n");
    assert!(matches!(rollback(&machine), Err(SetupError::Verify { why }) if why == "broken"));
    assert_eq!(venv::existing(&machine.request()), Ok(new));
}

#[test]
fn other_requirements_come_with_an_upgrade_and_are_reported_after_a_rollback() {
    let machine = Machine::new();
    machine.setup().unwrap();
    machine.write("resolved", NEWER);
    let request = SetupRequest { packages: vec!["mlx-lm==0.32.3".to_owned()], ..machine.request() };
    let trial = Trial { serve: &|_| Ok(()), users: &|_| Vec::new() };
    assert_eq!(venv::upgrade(&request, &trial, &mut |_| {}).unwrap().environment.outdated, None);
    assert_eq!(venv::existing(&request).unwrap().outdated, None);
    let back = venv::rollback(&request, &trial, &mut |_| {}).unwrap();
    assert!(back.outdated.unwrap().contains("mlx-lm==0.32.3"));
}

#[test]
fn an_environment_in_use_under_the_links_own_name_is_not_removed() {
    let machine = Machine::new();
    let old = machine.setup().unwrap();
    machine.write("resolved", NEWER);
    let place = machine.path("venv");
    let users = |path: &Path| if path == place { vec![4711] } else { Vec::new() };
    let trial = Trial { serve: &|_| Ok(()), users: &users };
    let error = venv::upgrade(&machine.request(), &trial, &mut |_| {}).unwrap_err();
    assert!(error.why().unwrap().contains("4711"), "{error:?}");
    assert_eq!(venv::existing(&machine.request()), Ok(old));
}

#[test]
fn two_environments_are_kept_and_those_in_use() {
    let machine = Machine::new();
    machine.setup().unwrap();
    let used = |path: &Path| if path.ends_with(".venv.1") { vec![4711] } else { Vec::new() };
    for version in 1..=3 {
        machine.write("resolved", &format!(r#""mlx==0.34.{version}""#));
        let trial = Trial { serve: &|_| Ok(()), users: &used };
        venv::upgrade(&machine.request(), &trial, &mut |_| {}).unwrap();
    }
    assert_eq!(generations(&machine), [".venv.1", ".venv.3", ".venv.4"]);
    machine.write("resolved", r#""mlx==0.35.0""#);
    upgrade(&machine).unwrap();
    assert_eq!(generations(&machine), [".venv.4", ".venv.5"]);
}

#[test]
fn the_next_upgrade_removes_what_a_killed_one_left() {
    let machine = Machine::new();
    machine.setup().unwrap();
    // As a kill during pip leaves it.
    fs::create_dir_all(machine.path(".venv.2/bin")).unwrap();
    machine.write(".venv.2/pyvenv.cfg", "home = /opt");
    machine.write("..venv.2.mlxctl-building", "");
    machine.write("resolved", NEWER);
    assert!(upgrade(&machine).unwrap().switched);
    assert_eq!(generations(&machine), [".venv.1", ".venv.3"]);
    assert!(!machine.path("..venv.2.mlxctl-building").exists());
}

fn try_real(python: PathBuf, model: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(trial::one_token(&python, model, Duration::from_secs(180)))
}

#[test]
fn the_real_server_completes_a_token_of_the_tiny_model() {
    assert_eq!(try_real(real::python(), real::tiny_model()), Ok(()));
}

#[test]
fn an_environment_or_model_that_does_not_work_is_explained_by_its_relevant_line() {
    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("python");
    program::write(&python, "#!/bin/sh\necho 'ImportError: libmlx.so' >&2\nexit 1\n");
    let why = try_real(python, folder.path()).unwrap_err();
    assert!(why.contains("ended") && why.contains("ImportError: libmlx.so"), "{why}");
    let why = try_real(real::python(), folder.path()).unwrap_err();
    assert!(why.contains("config.json"), "{why}");
}
