//! The agent's property list matches the registry, other parsers read it, and `plists/` has the same file.

use std::path::{Path, PathBuf};
use std::process::Command;

use mlxctl::internals::registry::Registry;
use mlxctl::internals::service::launchd;

use crate::support::skipped;

const RENDERED: &str = "plists/com.cherokee.mlx-server.plist";

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `mlxctl plist` prints on the machine of `config/models.toml`, with program and registry where the README says.
fn rendered() -> String {
    let text = std::fs::read_to_string(project("config/models.toml")).unwrap();
    let config = Path::new("/Users/you/Library/Application Support/mlxctl/models.toml");
    let registry = Registry::parse(config, &text).unwrap();
    launchd::render(&registry.agent, Path::new("/usr/local/bin/mlxctl"), config).unwrap()
}

/// Runs a parser; returns its stdout.
fn read_with(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What Python's `plistlib` understands, as JSON.
fn with_plistlib(file: &Path) -> serde_json::Value {
    let code = "import json,plistlib,sys; print(json.dumps(plistlib.load(open(sys.argv[1],'rb'))))";
    serde_json::from_str(&read_with("python3", &["-c", code], file)).unwrap()
}

#[test]
fn the_file_in_plists_is_what_the_registry_renders() {
    if std::env::var_os("UPDATE_PLIST").is_some() {
        std::fs::write(project(RENDERED), rendered()).unwrap();
    }
    let file = std::fs::read_to_string(project(RENDERED)).unwrap();
    assert_eq!(file, rendered(), "run `UPDATE_PLIST=1 scripts/test plist` and commit the file");
}

#[test]
fn every_key_of_the_first_deployment_keeps_its_value() {
    let (seed, ours) =
        (with_plistlib(&project("tests/fixtures/plist/seed.plist")), with_plistlib(&project(RENDERED)));
    for (key, value) in seed.as_object().unwrap() {
        // The program differs on purpose: a supervisor in the server's place.
        if key != "ProgramArguments" {
            assert_eq!(ours.get(key), Some(value), "{key}");
        }
    }
    assert_eq!(ours["ProgramArguments"][1], "serve");
}

#[test]
fn what_the_man_page_leaves_open_is_spelled_out() {
    let ours = with_plistlib(&project(RENDERED));
    assert_eq!(ours["AbandonProcessGroup"], true);
    assert!(ours["ExitTimeOut"].as_u64() > Some(60), "{ours}");
    assert!(ours["SoftResourceLimits"]["NumberOfFiles"].as_u64() > Some(256), "{ours}");
}

#[test]
fn debians_parser_reads_the_file_too() {
    let file = project(RENDERED);
    let installed = Command::new("plistutil").arg("--version").output();
    if matches!(&installed, Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
        skipped("plistutil's reading of the plist", "it is not installed (Debian: libplist-utils)");
        return;
    }
    // It converts what it understood; both sides of the conversion must be the same job.
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary.plist");
    read_with("plistutil", &["-f", "bin", "-o", &binary.to_string_lossy(), "-i"], &file);
    assert_eq!(with_plistlib(&binary), with_plistlib(&file));
}
