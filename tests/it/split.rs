//! What each rank of a cluster is estimated to hold is what mlx_lm leaves on it.

use std::path::PathBuf;

use mlxctl::memory::files::read_folder;
use mlxctl::memory::shape::Precision;
use mlxctl::memory::split::split;
use mlxctl::registry::ClusterMode;
use serde::Deserialize;

use crate::real;

#[derive(Deserialize)]
struct Case {
    name: String,
    folder: PathBuf,
    mode: ClusterMode,
    bytes: Vec<u64>,
    elements_a_token: Vec<u64>,
}

#[test]
fn every_rank_holds_what_mlx_lm_leaves_on_it_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(real::python())
        .args(["-c", include_str!("split.py")])
        .arg(folder.path())
        .output()
        .expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let cases: Vec<Case> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(cases.len() >= 30, "{}", cases.len());
    let precision = Precision { activation: 1, quantized: None };
    for Case { name, folder, mode, bytes, elements_a_token } in cases {
        let files = read_folder(&folder).unwrap();
        let shares = split(&files, mode, bytes.len()).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let held: Vec<u64> = shares.iter().map(|share| share.weights.bytes.0).collect();
        assert_eq!(held, bytes, "{name} {mode:?}");
        let caches: Vec<u64> = shares.iter().map(|share| share.shape.per_token(precision).0.0).collect();
        assert_eq!(caches, elements_a_token, "{name} {mode:?}");
    }
    // What mlx_lm would fail at in the middle of a load is said before.
    let files = read_folder(&folder.path().join("1-False")).unwrap();
    let uneven = split(&files, ClusterMode::Tensor, 3).unwrap_err().to_string();
    assert!(uneven.contains("4 KV heads cannot be divided over 3 ranks"), "{uneven}");
    let many = split(&files, ClusterMode::Pipeline, 6).unwrap_err().to_string();
    assert!(many.contains("5 layers cannot be divided over 6 ranks"), "{many}");
    let llama = read_folder(&folder.path().join("0-False")).unwrap();
    let none = split(&llama, ClusterMode::Pipeline, 2).unwrap_err().to_string();
    assert!(none.contains("no pipeline mode for `llama`; it can in the other mode"), "{none}");
}
