//! The workflows call scripts that exist, and what a release adds to its archives is right.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn script(name: &str, arguments: &[&str]) -> Output {
    let program = Path::new(ROOT).join("scripts").join(name);
    Command::new(program).args(arguments).env_remove("CI").output().unwrap()
}

/// The commands of the steps, each with its file.
fn commands() -> Vec<(String, String)> {
    let folder = Path::new(ROOT).join(".github/workflows");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let step = line.trim().trim_start_matches("- ");
            if let Some(command) = step.strip_prefix("run: ") {
                found.push((name.clone(), command.to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_step_is_one_line_that_calls_an_existing_script() {
    let commands = commands();
    assert!(commands.len() >= 12, "{commands:?}");
    let steps = String::from_utf8(script("ci", &["?"]).stdout).unwrap();
    for (file, command) in &commands {
        let mut words = command.split_whitespace();
        let program = Path::new(ROOT).join(words.next().unwrap());
        assert!(command.starts_with("scripts/"), "{file}: {command}");
        let mode = std::fs::metadata(&program).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert_ne!(mode.permissions().mode() & 0o111, 0, "{file}: {command} cannot be run");
        if program.ends_with("ci") {
            let step = words.next().unwrap();
            assert!(
                steps.contains(&format!("scripts/ci {step} ")),
                "{file}: no such step: {command}\n{steps}"
            );
        }
    }
}

#[test]
fn a_release_is_made_only_from_a_tag_that_is_the_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(script("ci", &["version", &format!("v{version}")]).status.success());
    assert!(!script("ci", &["version", "v99.0.0"]).status.success());
}

#[test]
fn the_formula_of_a_release_names_its_archive_and_its_sum() {
    let folder = tempfile::tempdir().unwrap();
    for target in ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin"] {
        std::fs::write(folder.path().join(format!("mlxctl-1.2.3-{target}.tar.gz")), target).unwrap();
    }
    let url = "https://example.com/someone/mlxctl/releases/download/v1.2.3";
    let made = script("release-files", &[folder.path().to_str().unwrap(), url]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let sums = read("SHA256SUMS");
    let sum = sums.lines().find(|line| line.ends_with("  mlxctl-1.2.3-aarch64-apple-darwin.tar.gz")).unwrap();
    let sum = sum.split_whitespace().next().unwrap();
    let formula = read("mlxctl.rb");
    assert!(
        formula.contains(&format!("url \"{url}/mlxctl-1.2.3-aarch64-apple-darwin.tar.gz\"")),
        "{formula}"
    );
    assert!(sum.len() == 64 && formula.contains(&format!("sha256 \"{sum}\"")), "{formula}");
    assert!(formula.contains("homepage \"https://example.com/someone/mlxctl\""), "{formula}");

    // Without an archive for macOS a formula has nothing to name.
    std::fs::remove_file(folder.path().join("mlxctl-1.2.3-aarch64-apple-darwin.tar.gz")).unwrap();
    assert!(!script("release-files", &[folder.path().to_str().unwrap(), url]).status.success());
}

#[test]
fn the_dependencies_comply_with_deny_toml() {
    let held = script("deny", &[]);
    assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stderr));
    let parsed: toml::Table = toml::from_str(include_str!("../../deny.toml")).unwrap();
    assert!(["advisories", "licenses", "bans", "sources"].iter().all(|part| parsed.contains_key(*part)));
}
