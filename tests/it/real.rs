//! The real mlx_lm, which `scripts/test` prepares, and a tiny model made with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The interpreter of the virtual environment with mlx-lm in it.
pub fn python() -> PathBuf {
    let venv = std::env::var_os("MLXCTL_TEST_VENV").expect(
        "MLXCTL_TEST_VENV does not name a virtual environment with mlx-lm: run scripts/test, which creates one",
    );
    PathBuf::from(venv).join("bin/python")
}

/// The promises that a script found to hold: it tries the launcher's files with the real MLX, and fails otherwise.
pub fn promises_held(script: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    mlxctl::internals::backend::launcher::write(folder.path()).unwrap();
    let file = folder.path().join("try.py");
    std::fs::write(&file, script).unwrap();
    let output = Command::new(python()).arg(file).arg(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.lines().filter(|line| !line.starts_with("mlxctl:")).map(str::to_owned).collect()
}

/// The built-in tiny model, made once per target folder.
pub fn tiny_model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = mlxctl::internals::python::tiny::location(Path::new(env!("CARGO_TARGET_TMPDIR")));
        mlxctl::internals::python::tiny::make(&python(), &folder, &[], &mut |line| println!("{line}"))
            .unwrap();
        folder
    })
}

/// A `logit_bias` with which the tiny model says none of the tokens that end its answer.
pub fn endless() -> serde_json::Value {
    let config = std::fs::read(tiny_model().join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let ends = config["eos_token_id"].as_array().unwrap();
    ends.iter().map(|end| (end.to_string(), serde_json::Value::from(-100))).collect()
}
