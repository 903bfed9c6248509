//! Commands make profiles and everything else reads them; files that are not what their names say are named.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::Value;

use crate::real;
use crate::support::{Entry, Instance, program, venv};

/// A separate environment for this test with the packages of the real one.
fn environment(home: &Path) -> PathBuf {
    let (real, own) = (venv(), home.join("venv"));
    let lib = fs::read_dir(real.join("lib")).unwrap().next().unwrap().unwrap().file_name();
    let packages = Path::new("lib").join(lib).join("site-packages");
    fs::create_dir_all(own.join(&packages)).unwrap();
    fs::create_dir(own.join("bin")).unwrap();
    fs::write(own.join(&packages).join("real.pth"), format!("{}\n", real.join(&packages).display())).unwrap();
    fs::os::unix::fs::symlink(real.join("bin/python"), own.join("bin/python")).unwrap();
    for file in ["pyvenv.cfg", "mlxctl-venv.json"] {
        fs::copy(real.join(file), own.join(file)).unwrap();
    }
    own
}

/// A registry with one model, before an environment that can describe it.
fn instance(home: &Path, model: &Path, more: &str) -> Instance {
    let entry = Entry::new("m", "manual").repo(&model.display().to_string()).with(more);
    let instance = Instance::fake(vec![entry]);
    let text = fs::read_to_string(instance.config()).unwrap();
    let fake = text.lines().find(|line| line.starts_with("venv = ")).unwrap();
    let own = format!("venv = {:?}", environment(home));
    fs::write(instance.config(), text.replace(fake, &own)).unwrap();
    instance
}

fn estimate(instance: &Instance) -> Value {
    serde_json::from_str(&instance.expect(0, &["estimate", "m", "--platform", "metal", "--json"])).unwrap()
}

fn profiles(instance: &Instance) -> usize {
    fs::read_dir(instance.root().join("state/profiles")).map_or(0, Iterator::count)
}

fn safetensors(name: &str, bytes: usize) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + bytes, 0);
    file
}

#[test]
fn a_known_model_is_estimated_without_an_interpreter() {
    let home = tempfile::tempdir().unwrap();
    let instance = instance(home.path(), real::tiny_model(), "");
    let first = estimate(&instance);
    assert_eq!((&first["rules_of_thumb"], profiles(&instance)), (&Value::Null, 1), "{first:#}");
    let (python, ran) = (home.path().join("venv/bin/python"), home.path().join("ran"));
    fs::remove_file(&python).unwrap();
    program::write(&python, &format!("#!/bin/sh\ntouch {}\nexit 1\n", ran.display()));
    assert_eq!(estimate(&instance)["estimate"], first["estimate"]);
    assert!(!ran.exists(), "no Python was started");
    // mlx_lm is asked again when the configuration changes; if it cannot answer then, rules of thumb are used.
    let copy = home.path().join("model");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(real::tiny_model()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    let text = fs::read_to_string(instance.config()).unwrap();
    let here = real::tiny_model().display().to_string();
    fs::write(instance.config(), text.replace(&here, &copy.display().to_string())).unwrap();
    assert_eq!(estimate(&instance)["rules_of_thumb"], Value::Null, "the same files somewhere else");
    let config = fs::read_to_string(copy.join("config.json")).unwrap();
    fs::write(copy.join("config.json"), config.replacen('{', "{\"note\": 1,", 1)).unwrap();
    assert_eq!(estimate(&instance)["rules_of_thumb"], "`mlxctl setup` makes it exact");
    assert!(ran.exists());
}

#[test]
fn use_describes_the_model_that_it_switches_to() {
    let home = tempfile::tempdir().unwrap();
    let (first, other) = (home.path().join("first"), real::tiny_model());
    let instance = instance(home.path(), &first, &format!("alternatives = [{:?}]", other.display()));
    instance.expect(0, &["use", "m", &other.display().to_string()]);
    assert_eq!(profiles(&instance), 1);
}

#[test]
fn the_supervisor_describes_nothing_itself() {
    let instance = Instance::fake(vec![Entry::new("m", "always")]).serve();
    instance.wait_state("m", "ready");
    assert_eq!(profiles(&instance), 0, "an automatic start waits for no Python but its own");
}

#[test]
fn an_adapter_counts_with_the_model() {
    let home = tempfile::tempdir().unwrap();
    let adapter = home.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    fs::write(adapter.join("adapters.safetensors"), safetensors("layers.0.lora_a", 4096)).unwrap();
    let more = format!("server = {{ adapter_path = {:?} }}", adapter.display());
    let instance = instance(home.path(), real::tiny_model(), &more);
    let terms = estimate(&instance)["estimate"]["terms"].clone();
    let term = terms.as_array().unwrap().iter().find(|term| term["name"] == "adapter").unwrap();
    assert_eq!((&term["bytes"], &term["origin"]), (&4096.into(), &"file".into()));
    assert_eq!(term["figures"].as_array().unwrap().len(), 3);
}

#[test]
fn files_that_are_not_what_their_names_say_are_named_by_check_and_models() {
    let instance = Instance::fake(vec![Entry::new("m", "manual")]);
    let model = instance.root().join("model");
    instance.expect(0, &["check"]);
    let named = |says: &str| {
        let check = instance.run(&["check"]);
        let error = String::from_utf8_lossy(&check.stderr).into_owned();
        assert_eq!(check.status.code(), Some(2), "{error}");
        assert!(error.contains("`m` cannot be served") && error.contains(says), "{error}");
        let models = instance.run(&["models", "--json"]);
        let list: Value = serde_json::from_slice(&models.stdout).unwrap();
        assert!(list["models"][0]["unusable"].as_str().unwrap().contains(says), "{list:#}");
        let note = instance.run(&["models"]).stderr;
        assert!(String::from_utf8_lossy(&note).contains(says));
    };
    fs::write(model.join("tokenizer.json"), "version https://git-lfs.github.com/spec/v1\noid x\n").unwrap();
    named("tokenizer.json: it is a Git LFS pointer");
    fs::write(model.join("tokenizer.json"), "{}").unwrap();
    fs::write(model.join("model.safetensors"), "").unwrap();
    named("model.safetensors: it is empty");
    fs::rename(model.join("model.safetensors"), model.join("model-q4_k_m.gguf")).unwrap();
    named("GGUF");
}
