//! What a model's files say about its speed: bytes that every token reads, and the tokens that end an answer.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::units::Bytes;

/// What is relevant about a model for its speed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Shape {
    pub weights: Option<Bytes>,
    /// Whether a token reads only some of the weights (a mixture of experts).
    pub sparse: bool,
    /// Longest context of the model, in tokens.
    pub context: Option<u32>,
    /// Ids of tokens that end an answer.
    pub ends: BTreeSet<u32>,
}

impl Shape {
    /// Reads the files in a folder; what they do not say is `None`.
    pub(crate) fn read(folder: &Path) -> Self {
        let json = |name: &str| -> Value {
            let bytes = fs_err::read(folder.join(name)).unwrap_or_default();
            serde_json::from_slice(&bytes).unwrap_or_default()
        };
        let mut shape = Self::of(&json("config.json"), &json("generation_config.json"));
        shape.weights = weights(folder);
        shape
    }

    /// From `config.json` and `generation_config.json`, without the weights.
    pub(crate) fn of(config: &Value, generation: &Value) -> Self {
        let find = |key: &str| config.get(key).or_else(|| config.get("text_config")?.get(key));
        let number = |key: &str| find(key).and_then(Value::as_u64);
        let sparse = ["num_experts", "num_local_experts", "n_routed_experts"];
        let ends = [find("eos_token_id"), generation.get("eos_token_id")];
        Self {
            weights: None,
            sparse: sparse.iter().any(|key| number(key).is_some_and(|experts| experts > 1)),
            context: number("max_position_embeddings").and_then(|tokens| u32::try_from(tokens).ok()),
            ends: ends.into_iter().flatten().flat_map(ids).collect(),
        }
    }
}

/// A number, or a list of numbers.
fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(all) => all.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

/// Total size of the folder's safetensors files; `None` if there are none.
fn weights(folder: &Path) -> Option<Bytes> {
    let mut total = 0;
    for entry in fs_err::read_dir(folder).ok()?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "safetensors") {
            total += fs_err::metadata(entry.path()).ok()?.len();
        }
    }
    (total > 0).then_some(Bytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_that_end_an_answer_are_those_of_both_files() {
        let config = json!({ "max_position_embeddings": 131_072, "eos_token_id": 151_643 });
        let shape = Shape::of(&config, &json!({ "eos_token_id": [151_643, 151_645] }));
        assert_eq!((shape.context, shape.sparse), (Some(131_072), false));
        assert_eq!(shape.ends, BTreeSet::from([151_643, 151_645]));
    }

    #[test]
    fn experts_are_also_found_below_text_config_and_empty_files_say_nothing() {
        let config = json!({ "text_config": { "num_experts": 128, "eos_token_id": 7 } });
        let shape = Shape::of(&config, &Value::Null);
        assert!(shape.sparse);
        assert_eq!(shape.ends, BTreeSet::from([7]));
        assert_eq!(Shape::of(&Value::Null, &Value::Null), Shape::default());
    }
}
