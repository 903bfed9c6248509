//! `estimate` and `budget` answer "may I start it now?" before anything is started.

use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

fn mlxctl(home: &Path, config: &Path) -> Command {
    let mut command = Command::cargo_bin("mlxctl").unwrap();
    // Nothing is downloaded here, whatever is on the machine.
    command.env("HF_HUB_CACHE", home.join("hub")).env("HOME", home).arg("--config").arg(config);
    command
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn deployment() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/models.toml"))
}

#[test]
fn the_deployments_budget_is_printed_with_both_counts() {
    let home = TempDir::new().unwrap();
    let plan = stdout(mlxctl(home.path(), deployment()).args(["budget", "--memory", "128GB"]));
    insta::assert_snapshot!(plan);
    let busy = ["budget", "--memory", "128GB", "--running", "70b", "civ5xp", "--json"];
    let json: serde_json::Value =
        serde_json::from_str(&stdout(mlxctl(home.path(), deployment()).args(busy))).unwrap();
    assert_eq!(json["budget"]["free_bytes"], 48_000_000_000_i64);
    assert_eq!(json["cases"][0]["free_bytes"], 98_000_000_000_i64);
    assert_eq!(json["cases"][1]["headroom_bytes"], 68_000_000_000_i64);
}

#[test]
fn a_plan_with_an_unknown_name_is_refused() {
    let home = TempDir::new().unwrap();
    let mut command = mlxctl(home.path(), deployment());
    command.args(["budget", "--running", "71b"]).assert().code(4);
}

/// A registry with one model in `folder`.
fn registry(home: &Path, folder: &Path, memory: &str) -> std::path::PathBuf {
    let file = home.join("models.toml");
    let text = format!(
        "[paths]\nroot = {root:?}\n[[model]]\nname = \"m\"\nrepo = {folder:?}\nport = 8800\nstart = \"manual\"\n\
         [model.memory]\n{memory}\n",
        root = home.join("root"),
    );
    fs_err::write(&file, text).unwrap();
    file
}

fn model_folder(home: &Path, weights: &[u8]) -> std::path::PathBuf {
    let folder = home.join("model");
    fs_err::create_dir_all(&folder).unwrap();
    let config = r#"{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"intermediate_size":128,"vocab_size":320,"max_position_embeddings":4096}"#;
    fs_err::write(folder.join("config.json"), config).unwrap();
    fs_err::write(folder.join("model.safetensors"), weights).unwrap();
    folder
}

fn weights() -> Vec<u8> {
    let header = br#"{"a":{"dtype":"BF16","shape":[500000],"data_offsets":[0,1000000]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + 1_000_000, 0);
    file
}

#[test]
fn every_term_of_an_estimate_says_where_it_comes_from() {
    let home = TempDir::new().unwrap();
    let config = registry(home.path(), &model_folder(home.path(), &weights()), "context = 2048");
    let text = stdout(mlxctl(home.path(), &config).args(["estimate", "m", "--platform", "metal"]));
    insta::with_settings!({filters => vec![(r"(?m)^m  \S+", "m  FOLDER"), (r"(?s)\nbefore that: .*", "\n")]}, {
        insta::assert_snapshot!(text);
    });
    let json: serde_json::Value = serde_json::from_str(&stdout(mlxctl(home.path(), &config).args([
        "estimate",
        "m",
        "--platform",
        "metal",
        "--json",
    ])))
    .unwrap();
    assert_eq!(json["kv_bytes_per_token"], 2 * 2 * 2 * 16 * 2);
    let terms = json["estimate"]["terms"].as_array().unwrap();
    let peak: u64 = terms
        .iter()
        .filter(|term| term["figures"].as_array().unwrap().iter().any(|figure| figure == "peak"))
        .map(|term| term["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(json["reserve_bytes"], peak);
}

#[test]
fn files_that_cannot_work_are_a_named_problem() {
    let home = TempDir::new().unwrap();
    let failure = |weights: &[u8], memory: &str| {
        let config = registry(home.path(), &model_folder(home.path(), weights), memory);
        let output =
            mlxctl(home.path(), &config).args(["estimate", "m"]).assert().code(1).get_output().clone();
        String::from_utf8(output.stderr).unwrap()
    };
    let whole = weights();
    for (weights, memory, says) in [
        (&whole[..whole.len() - 1], "", "cut off"),
        (&[0xff; 100][..], "", "its header says that it is 18446744073709551615 bytes long"),
        (&whole[..], "ceiling = \"1MB\"", "the ceiling of 1.00 MB is below what m takes just loaded"),
    ] {
        let text = failure(weights, memory);
        assert!(text.contains(says) && text.contains("try:"), "{text}");
    }
}

#[test]
fn an_unknown_model_is_refused_and_a_declared_size_is_marked() {
    let home = TempDir::new().unwrap();
    let text = "[[model]]\nname = \"m\"\nrepo = \"org/m\"\nport = 8800\nstart = \"manual\"\n";
    let file = home.path().join("models.toml");
    let root = format!("[paths]\nroot = {:?}\n", home.path().join("root"));
    fs_err::write(&file, format!("{root}{text}")).unwrap();
    let unknown = stdout(mlxctl(home.path(), &file).args(["estimate", "m", "--json"]));
    let unknown: serde_json::Value = serde_json::from_str(&unknown).unwrap();
    assert_eq!((&unknown["granted"], &unknown["refusal"]["why"]), (&false.into(), &"unknown".into()));
    fs_err::write(&file, format!("{root}{text}size = \"1MB\"\n")).unwrap();
    let declared = stdout(mlxctl(home.path(), &file).args(["estimate", "m"]));
    assert!(declared.contains("declared size  1.00 MB") && declared.contains("granted now"), "{declared}");
    assert!(declared.contains("before that: ") && declared.contains("try: mlxctl setup"), "{declared}");
}
