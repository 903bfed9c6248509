//! Models and estimates for tests.

use std::path::Path;

use super::estimate::{Files, ModelFiles};
use super::figures::{Estimate, Figure, Origin, Term};
use super::weights::Header;
use super::{Shape, thumb};
use crate::registry::{Model, Registry};
use crate::units::Bytes;

/// The files of DeepSeek-R1-Distill-Qwen-32B-4bit, 18.4 GB.
pub(super) fn files_32b() -> ModelFiles {
    qwen2(64, 5120, 40, 27_648, 18_431_289_344)
}

/// The files of Qwen2.5-72B-Instruct-4bit, 40.9 GB.
pub(super) fn files_72b() -> ModelFiles {
    qwen2(80, 8192, 64, 29_568, 40_900_313_088)
}

fn qwen2(layers: u32, hidden: u32, heads: u32, intermediate: u32, bytes: u64) -> ModelFiles {
    let config = serde_json::json!({
        "model_type": "qwen2", "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": 8, "intermediate_size": intermediate, "vocab_size": 152_064,
        "max_position_embeddings": 131_072, "torch_dtype": "bfloat16",
    });
    let shape = thumb::shape(&config.to_string()).unwrap();
    let weights = Header { tensors: 1, bytes: Bytes(bytes), float_bytes: [1, 0] };
    ModelFiles::Read(Box::new(of(shape, weights)))
}

/// Four shards of weights, without an adapter or shares of ranks.
pub(super) fn of(shape: Shape, weights: Header) -> Files {
    let outside = Bytes::ZERO;
    Files { shape, weights, outside, shards: 4, adapter: Header::default(), shares: Vec::new() }
}

/// The model `m` with `memory` under `[model.memory]` and `server` under `[model.server]`.
pub(super) fn model(memory: &str, server: &str) -> Model {
    let text = format!(
        "[[model]]\nname = \"m\"\nrepo = \"org/m\"\nport = 8800\nstart = \"manual\"\n\
         [model.memory]\n{memory}\n[model.server]\n{server}\n"
    );
    parsed(&text)
}

/// The first model of the registry `text`.
pub(super) fn parsed(text: &str) -> Model {
    Registry::parse(Path::new("/m.toml"), text)
        .unwrap_or_else(|p| panic!("{}", p.render(false)))
        .models
        .remove(0)
}

/// An estimate of `bytes` in all three figures.
pub(super) fn needs(bytes: Bytes) -> Estimate {
    let figures = vec![Figure::Idle, Figure::Resident, Figure::Peak];
    let (name, detail) = ("all".to_owned(), String::new());
    Estimate::of(vec![Term { name, bytes, figures, origin: Origin::File, detail, before: None }], None)
}
