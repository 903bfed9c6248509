//! `mlxctl doctor`: every check by name, what it found, what to do.

use std::collections::BTreeSet;

use crate::control_fake::Instance;
use crate::fake_launchd::FakeLaunchd;
use crate::support::program;

/// The checks that scripts may rely on.
const CHECKS: [&str; 26] = [
    "address",
    "agent-file",
    "agent-state",
    "allow-list",
    "clock",
    "cve-2026-5843",
    "disk",
    "firewall",
    "gpu-limit",
    "hub-cache",
    "kernel-panics",
    "keys",
    "leftovers",
    "logs",
    "open-files",
    "ports",
    "power",
    "process-type",
    "python",
    "registry",
    "socket-path",
    "supervisor",
    "swap",
    "system",
    "venv",
    "versions",
];

fn doctor(instance: &Instance, arguments: &[&str], path: Option<&str>) -> (i32, serde_json::Value) {
    let mut command = instance.command();
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let output = command.arg("doctor").arg("--json").args(arguments).output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

fn check<'a>(document: &'a serde_json::Value, id: &str) -> &'a serde_json::Value {
    document["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap()
}

#[test]
fn every_check_appears_once_and_every_problem_comes_with_a_fix() {
    let instance = Instance::new();
    let (code, document) = doctor(&instance, &[], None);
    let checks = document["checks"].as_array().unwrap();
    let ids: Vec<&str> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), CHECKS.len());
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), CHECKS.into_iter().collect());
    for check in checks {
        let wrong = ["warn", "fail"].contains(&check["state"].as_str().unwrap());
        assert_eq!(check["fix"].is_string(), wrong, "{check}");
    }
    // There is no Python environment: that is a failure, and the exit code says so.
    assert_eq!(check(&document, "venv")["state"], "fail");
    assert_eq!((code, document["failed"].as_u64() > Some(0)), (1, true));
}

/// The system that the tests run on keeps the seam's promises; what it need not have is reported as missing.
#[test]
fn every_system_call_is_tried() {
    let instance = Instance::new();
    let (code, document) = doctor(&instance, &["--host"], None);
    let checks = document["checks"].as_array().unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| check["state"] == "fail").collect();
    assert_eq!((failed, code), (vec![], 0));
    let ids: BTreeSet<&str> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), checks.len(), "each once");
    for id in
        ["start-time", "exit-orphan", "port-owner", "footprint-group", "arguments", "boot-id", "priority"]
    {
        assert_eq!(check(&document, id)["state"], "ok", "{id}");
    }
}

#[test]
fn a_broken_registry_is_a_finding_and_not_an_error() {
    let instance = Instance::new();
    std::fs::write(instance.config(), "[paths]\nroot = 7\n").unwrap();
    let (code, document) = doctor(&instance, &[], None);
    assert_eq!(code, 1);
    assert_eq!(check(&document, "registry")["state"], "fail");
    assert!(check(&document, "system")["seen"].is_string());
}

#[test]
fn a_port_that_another_program_has_is_named() {
    let instance = Instance::new();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port().to_string();
    let text = std::fs::read_to_string(instance.config()).unwrap();
    std::fs::write(instance.config(), text.replace("port = 8801", &format!("port = {port}"))).unwrap();
    let (_, document) = doctor(&instance, &[], None);
    let ports = check(&document, "ports");
    assert_eq!(ports["state"], "fail");
    // This process.
    let holder = format!("{port} (70b): it");
    let seen = ports["seen"].as_str().unwrap();
    assert!(seen.contains(&holder) && seen.ends_with(&format!("pid {}", std::process::id())), "{ports}");
}

#[test]
fn the_power_source_comes_from_pmset() {
    let instance = Instance::new();
    let bin = instance.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    program::write(&bin.join("pmset"), "#!/bin/sh\necho \"Now drawing from 'Battery Power'\"\n");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let (_, document) = doctor(&instance, &[], Some(&path));
    assert_eq!(check(&document, "power")["state"], "warn");
}

#[test]
fn launchds_view_is_part_of_it() {
    let (instance, launchd) = (Instance::new(), FakeLaunchd::start());
    let launchctl = launchd.program();
    let (_, document) = doctor(&instance, &["--launchctl", launchctl.to_str().unwrap()], None);
    assert_eq!(check(&document, "agent-file")["state"], "warn");
    let state = check(&document, "agent-state");
    assert_eq!(
        (state["state"].as_str(), state["seen"].as_str()),
        (Some("warn"), Some("launchd does not know the agent"))
    );
}

#[test]
fn the_application_firewall_is_asked_about_the_program_that_listens() {
    let instance = Instance::new();
    let bin = instance.folder.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let asked = instance.folder.path().join("asked");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> '{}'\ncase $1 in\n--getglobalstate) echo 'Firewall is enabled. (State = 1)' ;;\n\
         --getappblocked) echo 'The application is not part of the firewall' ;;\nesac\n",
        asked.display()
    );
    program::write(&bin.join("socketfilterfw"), &script);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    // The registry of the tests serves only loopback, where the firewall does not matter.
    assert_eq!(check(&doctor(&instance, &[], Some(&path)).1, "firewall")["state"], "skip");
    let file = instance.config();
    let text =
        std::fs::read_to_string(&file).unwrap().replace("host = \"127.0.0.1\"", "host = \"192.0.2.7\"");
    std::fs::write(&file, text).unwrap();
    let (_, document) = doctor(&instance, &[], Some(&path));
    let firewall = check(&document, "firewall");
    assert_eq!(firewall["state"], "warn", "{firewall}");
    assert!(firewall["fix"].as_str().unwrap().contains("--unblockapp"), "{firewall}");
    let asked = std::fs::read_to_string(asked).unwrap();
    assert!(asked.contains("--getappblocked /"), "{asked}");
}
