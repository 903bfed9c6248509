//! `scripts/accept-macos` completes on a system that behaves as documented, and its report says what held.

use std::process::Command;

use crate::fake_launchd::FakeLaunchd;
use crate::support::{Entry, Instance, program};

/// What a Mac prints, as far as that is documented.
const PROGRAMS: [(&str, &str); 5] = [
    (
        "sysctl",
        "case $2 in\nhw.memsize) echo 137438953472;; machdep.cpu.brand_string) echo 'Apple M4 Max';;\n\
         kern.memorystatus_vm_pressure_level) echo 1;; iogpu.wired_limit_mb) echo 0;;\n\
         vm.swapusage) echo 'total = 0.00M  used = 0.00M  free = 0.00M  (encrypted)';; *) echo 4;; esac",
    ),
    ("sw_vers", "echo 'ProductName: macOS'; echo 'ProductVersion: 15.1'"),
    (
        "pmset",
        "case $2 in batt) echo \"Now drawing from 'AC Power'\";; *) echo ' lowpowermode         0';; esac",
    ),
    ("codesign", "echo 'Signature=adhoc' >&2"),
    ("footprint", "exit 1"),
];

#[test]
fn every_step_runs_and_what_needs_no_mac_holds() {
    let launchd = FakeLaunchd::start_at_home();
    let instance = Instance::real(vec![Entry::new("tiny", "always")]);
    let bin = launchd.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = |name: &str, text: &str| {
        program::write(&bin.join(name), &format!("#!/bin/sh\n{text}\n"));
    };
    for (name, text) in PROGRAMS {
        script(name, text);
    }
    script("launchctl", &format!("exec '{}' \"$@\"", launchd.program().display()));
    // On a Mac mlxctl finds launchctl by itself.
    script(
        "mlxctl",
        &format!(
            "for word; do case $word in agent | doctor) set -- \"$@\" --launchctl '{}';; esac; done\nexec '{}' \"$@\"",
            launchd.program().display(),
            env!("CARGO_BIN_EXE_mlxctl")
        ),
    );
    let report = launchd.path("report.md");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/accept-macos"))
        .args(["--yes", "--no-bench", "--config", instance.config().to_str().unwrap()])
        .args(["--mlxctl", bin.join("mlxctl").to_str().unwrap(), "--report", report.to_str().unwrap()])
        .env("PATH", path)
        .env("HOME", launchd.folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Before any assertion: the agent ends with its backend.
    let ended = Command::new(bin.join("mlxctl"))
        .args(["--config", instance.config().to_str().unwrap(), "agent", "uninstall"])
        .env("HOME", launchd.folder.path())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));

    let report = std::fs::read_to_string(report).unwrap_or_default();
    // Comparing footprints, holding off sleep and being throttled take a Mac; closing the lid takes a person, and
    // requests from outside take another host.
    let needs_a_mac = ["footprint", "idle sleep", "sleep", "background", "another host", "benchmarks"];
    let broken: Vec<&str> = report
        .lines()
        .filter(|line| line.starts_with("DID NOT HOLD") || line.starts_with("not tried"))
        .filter(|line| !needs_a_mac.iter().any(|name| line[13..].trim_start().starts_with(name)))
        .collect();
    assert!(broken.is_empty(), "{broken:#?}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    for fact in [
        "host: start-time",
        "bootstrap of a loaded job is 5 or 37",
        "a stop lets the answer end",
        "it adopts the backend",
        "a stopped client of the link keeps no backend from ending",
        "the answer ends by itself or with the error event",
        "the model outlives hand-over and bootout",
        "a program that was replaced runs after agent restart",
        "the model stays up over an upgrade",
    ] {
        assert!(
            report.lines().any(|line| line.starts_with("held") && line.contains(fact)),
            "{fact}\n{report}"
        );
    }
    assert_eq!(output.status.code(), Some(1), "what was not tried is not a success");
}
