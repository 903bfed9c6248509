use std::fs;

use super::*;

const CONFIG: &str = r#"{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
    "num_key_value_heads":2,"intermediate_size":128,"vocab_size":320,"max_position_embeddings":4096}"#;

fn shard(tensor: &str) -> Vec<u8> {
    let header = format!(r#"{{"{tensor}":{{"dtype":"BF16","shape":[8],"data_offsets":[0,16]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([0; 16]);
    file
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn problem(files: &[(&str, &[u8])]) -> Problem {
    read_folder(folder(files).path()).unwrap_err()
}

#[test]
fn all_files_that_mlx_lm_loads_are_counted() {
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    let folder = folder(&[
        ("config.json", CONFIG.as_bytes()),
        ("model-1.safetensors", &shard("a")),
        ("model-2.safetensors", &shard("b")),
        ("adapters.safetensors", &shard("c")),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);
    let files = read_folder(folder.path()).unwrap();
    assert_eq!((files.weights.bytes.0, files.shards, files.activation()), (32, 2, 2));
}

#[test]
fn a_tensor_in_two_files_counts_once_and_consolidated_files_not_at_all() {
    let folder = folder(&[
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors", &shard("a")),
        ("model-00001-of-00001.safetensors", &shard("a")),
        ("consolidated.safetensors", &shard("b")),
    ]);
    let files = read_folder(folder.path()).unwrap();
    assert_eq!(
        (files.weights.bytes.0, files.weights.tensors, files.tensors.len(), files.shards),
        (16, 1, 1, 2)
    );
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let config = ("config.json", CONFIG.as_bytes());
    let one = shard("a");
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#.as_bytes();
    let missing = problem(&[config, ("model-1.safetensors", &one), ("model.safetensors.index.json", index)]);
    assert!(
        matches!(&missing, Problem::MissingShards { count: 1, first, .. } if first == "model-2.safetensors")
    );
    assert!(matches!(problem(&[config]), Problem::NoWeights { .. }));
    assert!(matches!(problem(&[("model.safetensors", &one)]), Problem::Unreadable { .. }));
    let empty = problem(&[config, ("model.safetensors", b"")]);
    assert!(empty.to_string().contains("it is empty"), "{empty}");
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    let pointer = problem(&[config, ("model.safetensors", pointer)]);
    assert!(pointer.to_string().contains("Git LFS pointer"), "{pointer}");
    let gguf = problem(&[config, ("model-q4.gguf", b"GGUF")]);
    assert!(matches!(&gguf, Problem::Gguf { .. }), "{gguf}");
    for cut in [7, 8, 20, one.len() - 1] {
        let cut = problem(&[config, ("model.safetensors", &one[..cut])]);
        assert!(matches!(&cut, Problem::Header { why, .. } if why.contains("cut off")), "{cut}");
    }
    let long = problem(&[config, ("model.safetensors", &[0xff; 64])]);
    assert!(
        long.to_string().contains("its header says that it is 18446744073709551615 bytes long"),
        "{long}"
    );
}

#[test]
fn learned_footprints_that_cannot_be_read_are_none() {
    let folder = folder(&[("learned.json", b"{\"schema\":1,\"models\":[")]);
    assert_eq!(read_learned(&folder.path().join("learned.json")), Store::default());
    assert_eq!(read_learned(&folder.path().join("nothing.json")), Store::default());
}
