//! systemd understands the unit.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mlxctl::internals::registry::{Agent, ProcessType};
use mlxctl::internals::service::systemd;

use crate::support::skipped;

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent {
        label: "mlxctl.test".into(),
        process_type: ProcessType::Standard,
        nice: 10,
        low_priority_io: true,
        path: "/usr/bin:/bin:/odd %place".into(),
        working_directory: folder.path().into(),
        log: folder.path().join("a log.txt"),
        exit_timeout: Duration::from_secs(300),
        throttle_interval: Duration::from_secs(10),
        open_files: 8192,
        environment: vec![("HF_HOME".into(), "/100% full \"disk\"".into())],
    };
    // systemd requires that the program exists.
    let program = folder.path().join("mlx ctl");
    std::os::unix::fs::symlink("/bin/true", &program).unwrap();
    let unit = folder.path().join(systemd::unit_name(&agent));
    std::fs::write(&unit, systemd::render(&agent, &program, Path::new("/c/models.toml"))).unwrap();

    let check = Command::new("systemd-analyze")
        .args(["--user", "--recursive-errors=no", "verify"])
        .arg(&unit)
        .env("XDG_RUNTIME_DIR", folder.path())
        .output();
    let output = match check {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skipped("what systemd-analyze thinks of the unit", "systemd is not installed");
            return;
        }
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let about_it: Vec<&str> = said.lines().filter(|line| line.contains("mlxctl.test")).collect();
    assert!(output.status.success() && about_it.is_empty(), "{said}");
}
