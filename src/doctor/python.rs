//! Python: the interpreter, the environment, the versions in it.

use std::path::Path;

use super::Finding;
use crate::python::requirement::refused_mlx_lm;

/// Whether an environment could be created. `found`: path and version, or why there is none.
pub(crate) fn interpreter(found: Result<(&Path, String), String>, has_venv: bool) -> Finding {
    let id = "python";
    match found {
        Ok((path, version)) => Finding::ok(id, format!("{version} at {}", path.display())),
        // An existing environment needs no other interpreter until it is recreated.
        Err(why) if has_venv => Finding::warn(
            id,
            format!("none is usable if the environment has to be recreated: {why}"),
            INSTALL,
        ),
        Err(why) => Finding::fail(id, format!("none is usable: {why}"), INSTALL),
    }
}

const INSTALL: &str = "install uv (https://docs.astral.sh/uv) or Python 3.12, then mlxctl setup";

/// Whether the environment is usable. `found`: its Python and why `setup` would change it, if it would; or why it
/// cannot be used and what to do.
pub(crate) fn venv(found: Result<(&Path, Option<&str>), (&str, &str)>) -> Finding {
    let id = "venv";
    match found {
        Ok((python, None)) => Finding::ok(id, format!("verified, {}", python.display())),
        Ok((_, Some(outdated))) => Finding::warn(id, outdated, "mlxctl setup"),
        Err((why, hint)) => Finding::fail(id, why, hint),
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    pub mlx_lm: String,
    pub mlx: String,
    pub transformers: String,
}

/// Whether the versions are known to work together.
pub(crate) fn versions(installed: Option<&Installed>) -> Finding {
    let id = "versions";
    let Some(found) = installed else { return Finding::skip(id, "there is no Python environment yet") };
    let Installed { mlx_lm, mlx, transformers } = found;
    let seen = format!("mlx-lm {mlx_lm}, mlx {mlx}, transformers {transformers}");
    // mlx-lm 0.32 is written for transformers 5.7 and newer.
    if parts(mlx_lm) >= vec![0, 32] && !transformers.is_empty() && parts(transformers) < vec![5, 7] {
        return Finding::fail(
            id,
            format!("{seen}: mlx-lm {mlx_lm} needs transformers 5.7"),
            "mlxctl setup --upgrade",
        );
    }
    Finding::ok(id, seen)
}

/// Whether this mlx-lm runs code from a model's folder (CVE-2026-5843, up to 0.31.3) and keeps answering `/health` with
/// 200 after its generation thread died.
pub(crate) fn cve(installed: Option<&Installed>) -> Finding {
    let id = "cve-2026-5843";
    let Some(found) = installed else { return Finding::skip(id, "there is no Python environment yet") };
    match refused_mlx_lm(&found.mlx_lm) {
        Some(why) => {
            Finding::fail(id, why, "packages = [\"mlx-lm==0.32.2\"] in the registry, then mlxctl setup")
        }
        None => Finding::ok(id, format!("mlx-lm {} is not affected", found.mlx_lm)),
    }
}

/// The leading numbers of a version.
fn parts(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn installed(mlx_lm: &str, transformers: &str) -> Installed {
        Installed { mlx_lm: mlx_lm.into(), mlx: "0.32.4".into(), transformers: transformers.into() }
    }

    #[test]
    fn a_missing_interpreter_matters_less_once_there_is_an_environment() {
        let path = Path::new("/opt/homebrew/bin/python3.12");
        assert_eq!(interpreter(Ok((path, "3.12.7".into())), false).state, State::Ok);
        assert_eq!(interpreter(Err("3.9.6 is too old".into()), false).state, State::Fail);
        assert_eq!(interpreter(Err("3.9.6 is too old".into()), true).state, State::Warn);
    }

    #[test]
    fn an_unusable_environment_fails_with_its_reason() {
        let python = Path::new("/v/bin/python");
        assert_eq!(venv(Ok((python, None))).state, State::Ok);
        assert_eq!(venv(Ok((python, Some("made for other packages")))).state, State::Warn);
        let gone = venv(Err(("the interpreter is gone", "mlxctl setup")));
        assert_eq!((gone.state, gone.fix.as_deref()), (State::Fail, Some("mlxctl setup")));
    }

    #[test]
    fn versions_that_do_not_fit_together_are_found() {
        assert_eq!(versions(Some(&installed("0.32.2", "5.7.0"))).state, State::Ok);
        assert_eq!(versions(Some(&installed("0.32.2", "4.57.1"))).state, State::Fail);
        assert_eq!(versions(None).state, State::Skip);
    }

    #[test]
    fn a_vulnerable_mlx_lm_fails() {
        assert_eq!(cve(Some(&installed("0.32.0", "5.7.0"))).state, State::Ok);
        let old = cve(Some(&installed("0.31.3", "5.0")));
        assert_eq!(old.state, State::Fail);
        assert!(old.seen.contains("CVE-2026-5843"), "{}", old.seen);
        assert_eq!(cve(None).state, State::Skip);
    }
}
