//! Each rank of a cluster holds what was estimated for it: real ranks, which communicate over loopback.

use mlxctl::internals::memory::Profile;
use mlxctl::internals::memory::files::{read_folder, read_profiled};
use mlxctl::internals::memory::profile::RefusedKind;
use mlxctl::internals::memory::split::split;
use mlxctl::internals::python::profile::{Division, LIMITS, describe};
use mlxctl::internals::registry::ClusterMode;
use serde::Deserialize;

use crate::real;

#[derive(Deserialize)]
struct Case {
    name: String,
    mode: ClusterMode,
    tokens: u64,
    document: String,
    /// Weights and caches of each rank, in bytes.
    ranks: Vec<(u64, u64)>,
}

#[test]
fn every_rank_holds_what_its_share_of_the_profile_says_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let script = include_str!("split.py");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = std::process::Command::new(real::python())
        .args(["-c", script, "all", script])
        .arg(folder.path())
        .args(["src/python/profile.py", "scripts/lib/families.py"].map(|file| root.join(file)))
        .output()
        .expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let cases: Vec<Case> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cases.len(), 11);
    for Case { name, mode, tokens, document, ranks } in cases {
        let path = folder.path().join(&name);
        let profile =
            Profile::parse(&document).unwrap_or_else(|refused| panic!("{name} {mode:?}: {refused}"));
        let files = read_profiled(&path, Some(&profile)).unwrap();
        let shares = split(&files, mode, ranks.len()).unwrap();
        let estimated: Vec<(u64, u64)> =
            shares.iter().map(|share| (share.weights.bytes.0, share.shape.kv(tokens, None).0)).collect();
        assert_eq!(estimated, ranks, "{name} {mode:?}");
        assert!(
            shares[0].shape.layers <= files.shape.layers && shares[0].shares.is_empty(),
            "{name} {mode:?}"
        );
        // Before mlx_lm was asked: the same layers, and never far below.
        let thumb = split(&read_folder(&path).unwrap(), mode, ranks.len()).unwrap();
        let held = ranks.iter().map(|rank| rank.0).max().unwrap();
        assert!(
            thumb[0].weights.bytes.0 * 10 >= held * 8,
            "{name} {mode:?}: {:?} of {held}",
            thumb[0].weights
        );
    }
    // What mlx_lm would fail at during a load is reported before, in its words.
    let refused = |name: &str, mode, ranks| {
        let division = Some(Division { mode, ranks });
        Profile::parse(&describe(&real::python(), &folder.path().join(name), division, LIMITS).unwrap())
            .unwrap_err()
    };
    let none = refused("llama", ClusterMode::Pipeline, 2);
    assert_eq!(none.kind, RefusedKind::Ranks);
    assert!(none.message.contains("no pipeline mode for llama"), "{none}");
    let uneven = refused("llama", ClusterMode::Tensor, 3);
    assert!(uneven.kind == RefusedKind::Ranks && uneven.message.contains("over 3 ranks"), "{uneven}");
    let many = refused("qwen3_moe", ClusterMode::Pipeline, 6);
    assert!(many.kind == RefusedKind::Ranks && many.message.contains("over 6 ranks"), "{many}");
    // And without mlx_lm, as far as the numbers show it.
    let files = read_folder(&folder.path().join("llama")).unwrap();
    let uneven = split(&files, ClusterMode::Tensor, 3).unwrap_err().to_string();
    assert!(uneven.contains("4 attention heads cannot be divided over 3 ranks"), "{uneven}");
    let many = split(&files, ClusterMode::Pipeline, 6).unwrap_err().to_string();
    assert!(many.contains("4 layers cannot be divided over 6 ranks"), "{many}");
}
