//! `check`, `models` and `use`: what is printed where, and the exit codes.

use std::path::{Path, PathBuf};

use assert_cmd::Command;

const SEED: &str = include_str!("../../config/models.toml");

fn mlxctl(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxctl"));
    let folder = config.parent().unwrap();
    command.env_clear().env("HOME", folder).env("HF_HUB_CACHE", folder.join("hub"));
    command.arg("--config").arg(config);
    command
}

fn registry(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("models.toml");
    fs_err::write(&file, text).unwrap();
    (folder, file)
}

/// Exit code, stdout, stderr, with the temporary folder's name taken out.
fn seen(command: &mut Command, folder: &Path) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*folder.to_string_lossy(), "FOLDER");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    format!("exit {}\n--- stdout\n{out}--- stderr\n{err}", output.status.code().unwrap())
}

#[test]
fn a_good_registry_is_summed_up_on_stdout() {
    let (folder, file) = registry(SEED);
    insta::assert_snapshot!(
        "check_good",
        seen(mlxctl(&file).args(["check", "--memory", "128GB"]), folder.path())
    );
}

#[test]
fn a_broken_registry_is_exit_2_with_everything_on_stderr() {
    let (folder, file) = registry(&SEED.replace("port = 8801", "port = 8800").replace("\"40GB\"", "40"));
    insta::assert_snapshot!(
        "check_broken",
        seen(mlxctl(&file).args(["check", "--memory", "128GB"]), folder.path())
    );
}

#[test]
fn a_machine_that_cannot_hold_the_registry_is_exit_2() {
    let (folder, file) =
        registry(&SEED.replace("\"manual\"", "\"always\"").replace("stop = { idle", "# stop = { idle"));
    insta::assert_snapshot!(
        "check_small",
        seen(mlxctl(&file).args(["check", "--memory", "64GB"]), folder.path())
    );
}

#[test]
fn without_the_option_this_machine_is_judged_and_nothing_is_created() {
    let text = "paths.root = \"data\"\n[[model]]\nname = \"a\"\nrepo = \"builtin:tiny\"\nport = 9\n";
    let (folder, file) = registry(text);
    let good = seen(mlxctl(&file).arg("check"), folder.path());
    assert!(good.starts_with("exit 0\n"), "{good}");
    assert!(!folder.path().join("data").exists());

    fs_err::write(folder.path().join("data"), "a file in the way").unwrap();
    let blocked = seen(mlxctl(&file).arg("check"), folder.path());
    assert!(blocked.starts_with("exit 2\n"), "{blocked}");
    assert!(
        blocked.contains("`paths.root` cannot be written: FOLDER/data is a file, not a folder"),
        "{blocked}"
    );
    assert!(blocked.contains("models.toml:1:14"), "{blocked}");
}

#[test]
fn a_missing_registry_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let missing = seen(mlxctl(&folder.path().join("none.toml")).arg("check"), folder.path());
    insta::assert_snapshot!("check_missing", missing);
}

#[test]
fn models_are_listed_with_what_is_on_disk() {
    let (folder, file) = registry(SEED);
    let cached = folder.path().join("hub/models--mlx-community--Qwen2.5-72B-Instruct-4bit");
    let snapshot = cached.join("snapshots/abc");
    fs_err::create_dir_all(&snapshot).unwrap();
    fs_err::create_dir_all(cached.join("refs")).unwrap();
    fs_err::write(cached.join("refs/main"), "abc").unwrap();
    fs_err::write(snapshot.join("config.json"), "{}").unwrap();
    fs_err::write(snapshot.join("tokenizer.json"), "{}").unwrap();
    // A sparse file: 40.9 GB that take no space.
    fs_err::File::create(snapshot.join("model.safetensors")).unwrap().set_len(40_900_313_088).unwrap();
    insta::assert_snapshot!("models_table", seen(mlxctl(&file).arg("models"), folder.path()));
    insta::assert_snapshot!("models_json", seen(mlxctl(&file).args(["models", "--json"]), folder.path()));
}

#[test]
fn a_switch_is_made_reported_and_can_be_undone() {
    let (folder, file) = registry(SEED);
    let there = ["use", "reasoning", "mlx-community/Qwen3-32B-4bit"];
    insta::assert_snapshot!("use_switches", seen(mlxctl(&file).args(there), folder.path()));
    assert_ne!(fs_err::read_to_string(&file).unwrap(), SEED);
    let back = ["use", "32b", "mlx-community/DeepSeek-R1-Distill-Qwen-32B-4bit"];
    let back = seen(mlxctl(&file).args(back), folder.path());
    assert!(back.starts_with("exit 0\n"), "{back}");
    assert_eq!(fs_err::read_to_string(&file).unwrap(), SEED);
}

#[test]
fn a_switch_to_another_repository_is_refused_with_those_on_offer() {
    let (folder, file) = registry(SEED);
    let refused = seen(mlxctl(&file).args(["use", "32b", "someone/else"]), folder.path());
    let nobody = seen(mlxctl(&file).args(["use", "33b", "someone/else"]), folder.path());
    insta::assert_snapshot!("use_refuses", format!("{refused}\n{nobody}"));
    assert_eq!(fs_err::read_to_string(&file).unwrap(), SEED);
}

#[test]
fn a_local_model_that_its_ranks_cannot_share_is_exit_2_with_its_place() {
    let model = r#"{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,
        "num_key_value_heads":2,"intermediate_size":128,"vocab_size":300}"#;
    let (folder, file) = registry("");
    let here = folder.path().join("model");
    let text = format!(
        "[paths]\nroot = \"root\"\n[[model]]\nname = \"m\"\nrepo = {here:?}\nport = 8800\n[model.cluster]\n\
         backend = \"mpi\"\nmode = \"tensor\"\nhosts = [{{ ssh = \"laptop\", ranks = 4 }}]\n"
    );
    fs_err::write(&file, &text).unwrap();
    fs_err::create_dir(&here).unwrap();
    fs_err::write(here.join("config.json"), model).unwrap();
    let said = seen(mlxctl(&file).arg("check"), folder.path());
    assert!(said.starts_with("exit 2\n"), "{said}");
    assert!(said.contains("models.toml:9:8"), "{said}");
    assert!(said.contains("2 KV heads cannot be divided over 4 ranks"), "{said}");
    assert!(said.contains("mode = \"pipeline\""), "{said}");
    fs_err::write(&file, text.replace("tensor", "pipeline")).unwrap();
    assert!(seen(mlxctl(&file).arg("check"), folder.path()).starts_with("exit 0\n"));
}
