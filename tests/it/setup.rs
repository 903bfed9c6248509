//! `setup` ends with a working environment or with a clear error, whatever it finds and whenever it was killed.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::program;
use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use mlxctl::internals::python::venv::{self, Environment, SetupError, SetupRequest, Step};
use mlxctl::internals::units::Bytes;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Stands in for Python, venv and pip: records its calls, and does what the files in its folder say.
const FAKE: &str = r#"#!/bin/sh
root=@ROOT@
echo "$*" | head -1 >> "$root/calls"
for last; do :; done
case "$1 $2 $3" in
  "-I -c "*) echo '{"version": [3, 12, 7], "machine": "arm64", "implementation": "CPython",
               "prefix": "/opt/python3.12", "free_threaded": false, "venv": true}' ;;
  "-m venv "*) mkdir -p "$last/bin" && echo "home = $root" > "$last/pyvenv.cfg" && cp "$0" "$last/bin/python" ;;
  "-m pip install")
    case "$*" in *--dry-run*) [ ! -e "$root/unmet" ] || { echo "ERROR: No matching distribution found"; exit 1; }; exit 0 ;; esac
    [ ! -e "$root/pip" ] || . "$root/pip"
    touch "$root/installed" ;;
  "-c "*) version=$(cat "$root/version" 2>/dev/null || echo 0.32.2)
    echo '{"versions": {"python": "3.12.7", "mlx": "0.32.4", "mlx_lm": "'$version'", "transformers": "5.23.0"},
           "resolved": ['"$(cat "$root/resolved" 2>/dev/null || echo '"mlx==0.32.4"')"'], "base": "/opt/python3.12", "gpu_limit": 107520000000, "evidence": ["'$root'/installed"]}' | tr -d '\n' ;;
esac
"#;

pub struct Machine {
    root: TempDir,
}

impl Machine {
    pub fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        let text = FAKE.replace("@ROOT@", machine.root.path().to_str().unwrap());
        program::write(&machine.path("python3"), &text);
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn request(&self) -> SetupRequest {
        SetupRequest {
            venv: self.path("venv"),
            packages: vec!["mlx-lm==0.32.2".to_owned()],
            interpreter: Some(self.path("python3")),
            nvidia: None,
            uv: None,
            verify: false,
        }
    }

    pub fn setup(&self) -> Result<Environment, SetupError> {
        venv::setup(&self.request(), &mut |_| {})
    }

    /// The calls of the fake since the last check, one word each.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        let word = |line: &str| match line.split(' ').take(3).collect::<Vec<_>>().as_slice() {
            ["-m", "pip", "--version" | "config"] => None,
            ["-m", "pip", _] if line.contains("--dry-run") => Some("resolve".to_owned()),
            ["-m", "pip", verb] => Some((*verb).to_owned()),
            ["-m", module, ..] => Some((*module).to_owned()),
            ["-I", ..] => None,
            _ => Some("verify".to_owned()),
        };
        text.lines().filter(|line| line.starts_with('-')).filter_map(word).collect()
    }
}

#[test]
fn a_second_setup_runs_no_program() {
    let machine = Machine::new();
    let first = machine.setup().unwrap();
    assert_eq!(machine.calls(), ["venv", "install", "verify"]);
    assert_eq!(first.versions.mlx_lm, "0.32.2");
    assert_eq!(machine.setup(), Ok(first));
    assert!(!machine.path("calls").exists());
}

#[test]
fn metals_gpu_limit_is_noted_with_the_environment() {
    let machine = Machine::new();
    let made = machine.setup().unwrap();
    assert_eq!(made.gpu_limit, Some(Bytes(107_520_000_000)));
    assert_eq!(venv::existing(&machine.request()).unwrap().gpu_limit, made.gpu_limit);
}

/// The verification with a fake MLX, on a system that calls itself `platform` and whose `sysctl` prints `wired`.
fn noted_limit(platform: &str, wired: &str, device_info: &str) -> serde_json::Value {
    let code = format!(
        "import subprocess, sys, types
core = types.SimpleNamespace(__version__='0', __file__='core', array=lambda values: 0, eval=lambda sum: None)
info = lambda: {{'max_recommended_working_set_size': 107520000000}}
{device_info} = info if '{device_info}'.endswith('info') else types.SimpleNamespace(device_info=info)
mlx_lm = types.ModuleType('mlx_lm')
mlx_lm.__version__ = '0'
mlx_lm.server = types.SimpleNamespace(__file__='server')
mlx = types.ModuleType('mlx')
mlx.core = core
sys.modules.update({{'mlx': mlx, 'mlx.core': core, 'mlx_lm': mlx_lm, 'mlx_lm.server': mlx_lm.server,
                    'transformers': types.SimpleNamespace(__version__='0')}})
sys.platform = '{platform}'
subprocess.run = lambda *call, **how: types.SimpleNamespace(stdout='{wired}')
exec(open('src/python/verify_venv.py').read())"
    );
    let output =
        Command::new("python3").args(["-c", &code]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    document["gpu_limit"].clone()
}

#[test]
fn mlx_is_asked_on_a_mac_whose_owner_set_nothing() {
    for device_info in ["core.device_info", "core.metal"] {
        assert_eq!(noted_limit("darwin", "0\\n", device_info), 107_520_000_000_u64, "{device_info}");
    }
    // The owner's setting is lost at the next boot, so it must not be noted as the default.
    assert!(noted_limit("darwin", "98304\\n", "core.device_info").is_null());
    assert!(noted_limit("linux", "", "core.device_info").is_null());
}

#[test]
fn verify_imports_again_and_installs_nothing() {
    let machine = Machine::new();
    machine.setup().unwrap();
    machine.calls();
    venv::setup(&SetupRequest { verify: true, ..machine.request() }, &mut |_| {}).unwrap();
    assert_eq!(machine.calls(), ["verify"]);
}

#[test]
fn other_requirements_are_installed_into_the_same_environment() {
    let machine = Machine::new();
    machine.setup().unwrap();
    machine.calls();
    let request = SetupRequest { packages: vec!["mlx-lm==0.32.3".to_owned()], ..machine.request() };
    let before = venv::existing(&request).unwrap();
    assert!(before.outdated.unwrap().contains("mlx-lm==0.32.3"), "what works is still used for serving");
    assert_eq!(venv::setup(&request, &mut |_| {}).unwrap().outdated, None);
    assert_eq!(machine.calls(), ["resolve", "install", "verify"]);
}

#[test]
fn requirements_that_cannot_be_met_leave_the_environment_that_works() {
    let machine = Machine::new();
    let good = machine.setup().unwrap();
    machine.write("unmet", "");
    let request = SetupRequest { packages: vec!["mlx-lm==0.32.99".to_owned()], ..machine.request() };
    assert!(matches!(venv::setup(&request, &mut |_| {}), Err(SetupError::Install(_))));
    assert_eq!(machine.setup(), Ok(good), "trusted as before");
}

#[test]
fn a_failed_installation_is_explained_by_its_relevant_line_and_never_trusted() {
    let machine = Machine::new();
    machine.write("pip", "echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1\n");
    let error = machine.setup().unwrap_err();
    assert!(error.why().unwrap().contains("No space left"), "{error:?}");
    assert!(error.hint().contains("disk space"));
    assert!(venv::existing(&machine.request()).unwrap_err().hint.contains("mlxctl setup"));
    fs::remove_file(machine.path("pip")).unwrap();
    machine.calls();
    machine.setup().unwrap();
    assert_eq!(machine.calls(), ["venv", "install", "verify"], "a partial environment is recreated");
}

#[test]
fn an_mlx_lm_before_0_32_is_refused_before_and_after_installing() {
    let machine = Machine::new();
    let request = SetupRequest { packages: vec!["mlx-lm==0.31.3".to_owned()], ..machine.request() };
    let error = venv::setup(&request, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("CVE-2026-5843"));
    assert_eq!(machine.calls(), [""; 0]);
    machine.write("version", "0.31.3");
    assert!(machine.setup().unwrap_err().to_string().contains("CVE-2026-5843"));
    assert!(venv::existing(&machine.request()).is_err());
}

#[test]
fn a_folder_that_is_not_an_environment_is_left_alone() {
    let machine = Machine::new();
    fs::create_dir(machine.path("venv")).unwrap();
    machine.write("venv/thesis.tex", "years of work");
    let error = machine.setup().unwrap_err();
    assert!(matches!(error, SetupError::NotOurs { .. }), "{error:?}");
    assert!(error.hint().contains("move"));
    assert_eq!(fs::read_to_string(machine.path("venv/thesis.tex")).unwrap(), "years of work");
}

#[test]
fn an_environment_made_by_hand_is_adopted_with_its_packages() {
    let machine = Machine::new();
    let by_hand =
        Command::new(machine.path("python3")).args(["-m", "venv"]).arg(machine.path("venv")).status();
    assert!(by_hand.unwrap().success());
    machine.write("venv/notes.txt", "mine");
    machine.calls();
    machine.setup().unwrap();
    assert_eq!(machine.calls(), ["install", "verify"]);
    assert!(machine.path("venv/notes.txt").exists());
}

#[test]
fn a_vanished_interpreter_is_reported_and_the_environment_recreated() {
    let machine = Machine::new();
    machine.setup().unwrap();
    let python = venv::python(&machine.path("venv"));
    fs::remove_file(&python).unwrap();
    symlink("/opt/python3.12/bin/python3", &python).unwrap();
    let not_ready = venv::existing(&machine.request()).unwrap_err();
    assert!(not_ready.why.contains("/opt/python3.12"), "{}", not_ready.why);
    machine.calls();
    machine.setup().unwrap();
    assert_eq!(machine.calls(), ["venv", "install", "verify"]);
}

#[test]
fn a_broken_environment_made_by_hand_is_moved_aside_not_deleted() {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("venv/bin")).unwrap();
    machine.write("venv/pyvenv.cfg", "home = /gone");
    machine.write("venv/notes.txt", "mine");
    machine.setup().unwrap();
    assert!(machine.path("venv.old-1/notes.txt").exists());
}

#[test]
fn packages_changed_by_hand_are_noticed_and_reinstalled() {
    let machine = Machine::new();
    machine.setup().unwrap();
    fs::remove_file(machine.path("installed")).unwrap();
    assert!(venv::existing(&machine.request()).unwrap_err().why.contains("by hand"));
    machine.calls();
    machine.setup().unwrap();
    assert_eq!(machine.calls(), ["resolve", "install", "verify"]);
}

#[test]
fn without_a_usable_interpreter_the_refused_ones_are_named() {
    let machine = Machine::new();
    let request = SetupRequest { interpreter: Some("/bin/false".into()), ..machine.request() };
    let error = venv::setup(&request, &mut |_| {}).unwrap_err();
    assert!(error.why().unwrap().contains("/bin/false"), "{error:?}");
    assert!(error.hint().contains("interpreter"));
    assert!(!machine.path("venv").exists());
}

#[test]
fn a_truncated_marker_is_not_trusted() {
    let machine = Machine::new();
    machine.setup().unwrap();
    let marker = machine.path("venv/mlxctl-venv.json");
    let text = fs::read_to_string(&marker).unwrap();
    for broken in ["", &text[..text.len() / 2], &text.replacen("\"schema\": 1", "\"schema\": 2", 1)] {
        fs::write(&marker, broken).unwrap();
        assert!(venv::existing(&machine.request()).is_err());
        assert_eq!(machine.setup().unwrap().outdated, None);
    }
}

/// Not a test: what `a_killed_setup_…` starts and kills.
#[test]
#[ignore = "runs only as the child of another test"]
fn setup_in_a_child() {
    let Some(root) = std::env::var_os("MLXCTL_TEST_ROOT").map(PathBuf::from) else { return };
    let request = SetupRequest {
        venv: root.join("venv"),
        packages: vec!["mlx-lm==0.32.2".to_owned()],
        interpreter: Some(root.join("python3")),
        nvidia: None,
        uv: None,
        verify: false,
    };
    let _ = venv::setup(&request, &mut |_| {});
}

#[test]
fn a_killed_setup_is_followed_by_one_that_waits_for_its_installer_and_starts_over() {
    let machine = Machine::new();
    machine.write("pip", "touch \"$root/started\"; while [ ! -e \"$root/go\" ]; do sleep 0.05; done\n");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "setup::setup_in_a_child", "--ignored"])
        .env("MLXCTL_TEST_ROOT", machine.root.path())
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    while !machine.path("started").exists() {
        assert!(Instant::now() < until, "the installer was never started");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    machine.calls();
    let mut steps = Vec::new();
    let environment = venv::setup(&machine.request(), &mut |step| {
        if step == Step::Waiting {
            machine.write("go", "");
        }
        steps.push(step);
    });
    assert!(environment.is_ok(), "{environment:?}");
    assert_eq!(steps[0], Step::Waiting, "the orphan still writes into the folder");
    assert!(matches!(&steps[1], Step::Discarding(why) if why.contains("did not finish")), "{steps:?}");
    assert_eq!(machine.calls(), ["venv", "install", "verify"]);
}

/// The slow one: a real interpreter, a real index, the real packages.
#[test]
fn a_real_setup_serves_and_a_second_one_runs_no_program() {
    let root = tempfile::tempdir().unwrap();
    let request = SetupRequest {
        venv: root.path().join("venv"),
        packages: vec!["mlx-lm==0.32.2".to_owned()],
        interpreter: None,
        nvidia: None,
        uv: None,
        verify: false,
    };
    let first = venv::setup(&request, &mut |step| println!("{step:?}")).unwrap();
    assert_eq!(first.versions.mlx_lm, "0.32.2");
    assert!(first.resolved.iter().any(|package| package.starts_with("mlx==")), "{:?}", first.resolved);
    // From here on, running the environment's Python leaves a trace.
    let trace = root.path().join("trace");
    fs::remove_file(&first.python).unwrap();
    program::write(&first.python, &format!("#!/bin/sh\necho run >> {}\n", trace.display()));
    assert_eq!(venv::setup(&request, &mut |_| {}), Ok(first));
    assert!(!trace.exists(), "the second setup ran Python");
}
