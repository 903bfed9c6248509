//! Finds a Python that MLX has wheels for.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::process;

/// The oldest minor version of Python 3 that mlx-lm 0.32 runs on.
pub(crate) const OLDEST: u32 = 11;
/// The newest minor version of Python 3 that MLX has wheels for.
pub(crate) const NEWEST: u32 = 14;

/// How long a Python may take to answer [`PROBE`], even from a cold disk.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

const PROBE: &str = "import json, platform, sys, sysconfig, importlib.util as u; print(json.dumps({\
    'version': list(sys.version_info[:3]), 'machine': platform.machine(), \
    'implementation': platform.python_implementation(), 'prefix': sys.base_prefix, \
    'free_threaded': bool(sysconfig.get_config_var('Py_GIL_DISABLED')), \
    'venv': bool(u.find_spec('venv') and u.find_spec('ensurepip'))}))";

/// What a Python reports about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub version: [u32; 3],
    /// Architecture of the process: `arm64`, `x86_64`, `aarch64`. Under Rosetta it differs from the machine's.
    pub machine: String,
    pub implementation: String,
    /// The base installation, even from within a virtual environment.
    pub prefix: PathBuf,
    /// Whether it is a build without the GIL, for which MLX has no wheels.
    pub free_threaded: bool,
    /// Whether it can create virtual environments with pip (Debian has that in a separate package).
    pub venv: bool,
}

impl Probe {
    pub fn version_text(&self) -> String {
        let [major, minor, micro] = self.version;
        format!("{major}.{minor}.{micro}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub path: PathBuf,
    /// Its answer, or why there is none.
    pub probe: Result<Probe, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Platform {
    /// Whether this is a Mac: only native arm64 has MLX.
    pub macos: bool,
    /// Whether `uv` creates the virtual environment, so that Python's own `venv` is not needed.
    pub uv: bool,
}

/// A Python that meets all requirements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    pub path: PathBuf,
    pub probe: Probe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoInterpreter {
    /// All that were probed, and why each was refused.
    pub refused: Vec<(PathBuf, String)>,
    pub hint: String,
}

impl std::fmt::Display for NoInterpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.refused.is_empty() {
            return write!(f, "no python3 was found");
        }
        let width = self.refused.iter().map(|(path, _)| path.display().to_string().len()).max().unwrap_or(0);
        let mut text = String::new();
        for (path, why) in &self.refused {
            writeln!(text, "{:width$}  {why}", path.display().to_string())?;
        }
        f.write_str(text.trim_end())
    }
}

/// Picks the first candidate that meets all requirements.
///
/// # Errors
/// Why each candidate was refused, and what to do.
pub(crate) fn choose(candidates: &[Candidate], platform: Platform) -> Result<Interpreter, NoInterpreter> {
    let mut refused = Vec::new();
    for candidate in candidates {
        match fitness(candidate, platform) {
            Ok(probe) => return Ok(Interpreter { path: candidate.path.clone(), probe: probe.clone() }),
            Err(why) => refused.push((candidate.path.clone(), why)),
        }
    }
    let hint = match platform {
        Platform { uv: true, .. } => "uv python install 3.13",
        Platform { macos: true, .. } => {
            "install a native one: `brew install python@3.13`, or uv (https://docs.astral.sh/uv)"
        }
        _ => "install Python 3.11 to 3.14 with its venv module (Debian: `apt install python3-venv`), or uv",
    };
    Err(NoInterpreter { refused, hint: hint.to_owned() })
}

fn fitness(candidate: &Candidate, platform: Platform) -> Result<&Probe, String> {
    if platform.macos && is_apple_shim(&candidate.path) {
        return Err("Apple's own: too old, and it may open a dialog".to_owned());
    }
    let probe = candidate.probe.as_ref().map_err(Clone::clone)?;
    let version = probe.version_text();
    let [major, minor, _] = probe.version;
    if (major, minor) < (3, OLDEST) {
        return Err(format!("Python {version} is too old: mlx-lm needs 3.{OLDEST} or later"));
    }
    if (major, minor) > (3, NEWEST) {
        return Err(format!("Python {version} is too new: MLX has wheels up to 3.{NEWEST}"));
    }
    if probe.implementation != "CPython" {
        return Err(format!("{} {version}: MLX has wheels for CPython only", probe.implementation));
    }
    if probe.free_threaded {
        return Err(format!("Python {version} without the GIL: MLX has no wheels for it"));
    }
    if platform.macos && probe.machine != "arm64" {
        return Err(format!("Python {version} for {} (Rosetta): MLX needs native arm64", probe.machine));
    }
    if !platform.uv && !probe.venv {
        return Err(format!(
            "Python {version} cannot make virtual environments: its venv or ensurepip is missing"
        ));
    }
    Ok(probe)
}

/// `/usr/bin/python3` on a Mac without the command-line tools opens a dialog when run, so it is never run.
fn is_apple_shim(path: &Path) -> bool {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.starts_with("/usr/bin") || real.starts_with("/usr/bin")
}

/// Runs [`PROBE`] with a Python.
pub(crate) fn probe(path: &Path) -> Candidate {
    let probe = probe_or_passing(path);
    probe.unwrap_or_else(|why| Candidate { path: path.to_owned(), probe: Err(why) })
}

/// Like [`probe`], for an environment that would be discarded after a bad answer.
///
/// # Errors
/// Why there was no answer, if the Python is not to blame.
pub(crate) fn probe_or_passing(path: &Path) -> Result<Candidate, String> {
    let mut command = process::command(path);
    command.args(["-I", "-c", PROBE]);
    let probe = match process::answer(command, PROBE_LIMIT) {
        Ok(text) => {
            serde_json::from_str(text.trim()).map_err(|error| format!("it gives an unusable answer: {error}"))
        }
        Err(silence) if silence.may_pass => return Err(silence.why),
        Err(silence) => Err(silence.why),
    };
    Ok(Candidate { path: path.to_owned(), probe })
}

/// Finds a Python that meets all requirements: only the one in the registry if that names one, else uv's, else the
/// newest on `PATH` and in the usual folders.
///
/// # Errors
/// Why each candidate was refused, and what to do.
pub(crate) fn find(named: Option<&Path>, uv: Option<&Path>) -> Result<Interpreter, NoInterpreter> {
    let platform = Platform { macos: cfg!(target_os = "macos"), uv: uv.is_some() };
    let paths: Vec<PathBuf> = match named {
        Some(path) => vec![path.to_owned()],
        None => uv.and_then(uv_python).into_iter().chain(on_path(&search_folders())).collect(),
    };
    let mut seen = Vec::new();
    for path in paths {
        let candidate = if platform.macos && is_apple_shim(&path) {
            Candidate { path, probe: Err("not tried".to_owned()) }
        } else {
            probe(&path)
        };
        if let Ok(found) = choose(std::slice::from_ref(&candidate), platform) {
            return Ok(found);
        }
        seen.push(candidate);
    }
    let mut none = choose(&seen, platform);
    if let (Err(none), Some(_)) = (&mut none, named) {
        none.hint = "set another `interpreter` in [python] of the registry, or remove it to search for one"
            .to_owned();
    }
    none
}

/// Finds a program on `PATH` or in the usual folders.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    search_folders().into_iter().map(|folder| folder.join(name)).find(|path| is_program(path))
}

/// `PATH`, and the folders of Homebrew and python.org, which launchd's `PATH` lacks.
fn search_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
    for usual in ["/opt/homebrew/bin", "/usr/local/bin", "/usr/bin"] {
        if !folders.iter().any(|folder| folder == Path::new(usual)) {
            folders.push(usual.into());
        }
    }
    folders
}

fn on_path(folders: &[PathBuf]) -> Vec<PathBuf> {
    let names = (OLDEST..=NEWEST).rev().map(|minor| format!("python3.{minor}")).chain(["python3".to_owned()]);
    let mut found: Vec<PathBuf> = Vec::new();
    for path in names.flat_map(|name| folders.iter().map(move |folder| folder.join(&name))) {
        if is_program(&path) && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

fn uv_python(uv: &Path) -> Option<PathBuf> {
    let mut command = process::command(uv);
    command.args(["python", "find", "--no-project", &format!(">=3.{OLDEST},<3.{}", NEWEST + 1)]);
    let text = process::output(command, PROBE_LIMIT).ok()?;
    let path = PathBuf::from(text.trim());
    path.is_absolute().then_some(path)
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Platform = Platform { macos: true, uv: false };
    const LINUX: Platform = Platform { macos: false, uv: false };

    fn python(path: &str, version: [u32; 3], change: impl FnOnce(&mut Probe)) -> Candidate {
        let mut probe = Probe {
            version,
            machine: "arm64".into(),
            implementation: "CPython".into(),
            prefix: "/opt/python".into(),
            free_threaded: false,
            venv: true,
        };
        change(&mut probe);
        Candidate { path: path.into(), probe: Ok(probe) }
    }

    #[test]
    fn the_first_that_fits_is_taken() {
        let all = [
            Candidate { path: "/shims/python3.14".into(), probe: Err("it fails: command not found".into()) },
            python("/a/python3.13", [3, 13, 1], |_| {}),
            python("/b/python3.12", [3, 12, 7], |_| {}),
        ];
        assert_eq!(choose(&all, MAC).unwrap().path, Path::new("/a/python3.13"));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        for (candidate, platform, reason) in [
            (python("/p", [3, 9, 6], |_| {}), LINUX, "too old"),
            (python("/p", [3, 15, 0], |_| {}), LINUX, "too new"),
            (python("/p", [3, 12, 0], |p| p.implementation = "PyPy".into()), LINUX, "CPython only"),
            (python("/p", [3, 13, 0], |p| p.free_threaded = true), LINUX, "without the GIL"),
            (python("/p", [3, 13, 0], |p| p.machine = "x86_64".into()), MAC, "Rosetta"),
            (python("/p", [3, 13, 0], |p| p.venv = false), LINUX, "ensurepip"),
            (python("/usr/bin/python3", [3, 13, 0], |_| {}), MAC, "Apple's own"),
            (Candidate { path: "/p".into(), probe: Err("it fails: boom".into()) }, MAC, "boom"),
        ] {
            let none = choose(std::slice::from_ref(&candidate), platform).unwrap_err();
            assert!(none.refused[0].1.contains(reason), "{none}");
            assert!(!none.hint.is_empty());
        }
    }

    #[test]
    fn an_intel_python_is_fine_on_linux_and_uv_needs_no_venv_module() {
        let intel = python("/p", [3, 11, 2], |p| p.machine = "x86_64".into());
        assert!(choose(&[intel], LINUX).is_ok());
        let bare = python("/p", [3, 11, 2], |p| p.venv = false);
        assert!(choose(&[bare], Platform { macos: false, uv: true }).is_ok());
    }

    #[test]
    fn nothing_found_still_says_what_to_do() {
        let none = choose(&[], LINUX).unwrap_err();
        assert_eq!(none.to_string(), "no python3 was found");
        assert!(none.hint.contains("3.11"));
    }
}
