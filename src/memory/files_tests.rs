use std::fs;

use super::*;

const CONFIG: &str = r#"{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
    "num_key_value_heads":2,"intermediate_size":128,"vocab_size":320,"max_position_embeddings":4096}"#;

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";

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
fn exactly_the_files_that_mlx_lm_loads_are_counted() {
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    let folder = folder(&[
        ("config.json", CONFIG.as_bytes()),
        ("model-1.safetensors", &shard("a")),
        ("model-2.safetensors", &shard("b")),
        ("adapters.safetensors", &shard("c")),
        ("model.safetensors.index.json", index.as_bytes()),
        ("consolidated.safetensors.index.json", br#"{"weight_map":{"a":"consolidated-1.safetensors"}}"#),
    ]);
    let files = read_folder(folder.path()).unwrap();
    assert_eq!((files.weights.bytes.0, files.shards, files.shape.activation), (32, 2, 2));
}

#[test]
fn a_tensor_in_two_files_counts_once_and_consolidated_files_are_ignored() {
    let folder = folder(&[
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors", &shard("a")),
        ("model-00001-of-00001.safetensors", &shard("a")),
        ("consolidated.safetensors", &shard("b")),
    ]);
    let files = read_folder(folder.path()).unwrap();
    assert_eq!((files.weights.bytes.0, files.weights.tensors, files.shards), (16, 1, 2));
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
    let pointer = problem(&[config, ("model.safetensors", POINTER)]);
    assert!(pointer.to_string().contains("Git LFS pointer"), "{pointer}");
    let pointer = problem(&[("config.json", POINTER), ("model.safetensors", &one)]);
    assert!(pointer.to_string().contains("config.json: it is a Git LFS pointer"), "{pointer}");
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
fn hollow_files_are_found_by_their_first_bytes() {
    let config = ("config.json", CONFIG.as_bytes());
    let one = shard("a");
    let found = |files: &[(&str, &[u8])]| impostor(folder(files).path()).map(|problem| problem.to_string());
    assert_eq!(
        found(&[config, ("model.safetensors", &one), ("model-q4.gguf", b"GGUF"), ("notes.txt", b"")]),
        None
    );
    let pointer = found(&[config, ("model.safetensors", &one), ("tokenizer.json", POINTER)]).unwrap();
    assert!(pointer.contains("tokenizer.json: it is a Git LFS pointer"), "{pointer}");
    let empty = found(&[config, ("model-1.safetensors", &one), ("model-2.safetensors", b"")]).unwrap();
    assert!(empty.contains("model-2.safetensors: it is empty"), "{empty}");
    assert!(found(&[config, ("model-q4.gguf", b"GGUF")]).unwrap().contains("GGUF"));
    assert_eq!(impostor(std::path::Path::new("/no/such/folder")), None);
}

#[test]
fn an_adapter_counts_with_the_bytes_of_its_file() {
    let folder = folder(&[("adapters.safetensors", &shard("a.lora_a"))]);
    assert_eq!(read_adapter(folder.path()).unwrap().bytes.0, 16);
    let none = read_adapter(std::path::Path::new("/no/such/adapter")).unwrap_err();
    assert!(none.to_string().contains("adapters.safetensors"), "{none}");
}

#[test]
fn a_damaged_or_missing_store_of_footprints_reads_as_empty() {
    let folder = folder(&[("learned.json", b"{\"schema\":1,\"models\":[")]);
    assert_eq!(read_learned(&folder.path().join("learned.json")), Store::default());
    assert_eq!(read_learned(&folder.path().join("nothing.json")), Store::default());
}
