//! Whether models can be divided over the ranks of their clusters, as far as their files are on this machine.

use std::path::PathBuf;

use crate::memory::shape::Shape;
use crate::memory::{Problem, split};
use crate::registry::{ClusterMode, Complaint, Registry, Source};

/// Every model whose `config.json` says that its KV heads, attention heads or layers do not come out even on its ranks,
/// or that mlx-lm cannot divide its family so. `folder`: where a model's files are, if they are here.
#[must_use]
pub fn divides(registry: &Registry, folder: impl Fn(&Source) -> Option<PathBuf>) -> Vec<Complaint> {
    let complaints = registry.models.iter().enumerate().filter_map(|(index, model)| {
        let cluster = model.cluster.as_ref()?;
        let config = fs_err::read_to_string(folder(&model.source)?.join("config.json")).ok()?;
        // A config.json that says nothing usable is the estimate's to tell.
        let shape = Shape::parse(&config).ok()?;
        let (mode, ranks) = (cluster.mode, cluster.ranks.len());
        let Err(Problem::Cluster { why }) = split::divides(&shape, mode, ranks) else { return None };
        let other = match mode {
            ClusterMode::Tensor => ClusterMode::Pipeline,
            ClusterMode::Pipeline => ClusterMode::Tensor,
        };
        let hint = match split::divides(&shape, other, ranks) {
            Ok(()) => format!("mode = \"{}\", or another number of ranks", other.name()),
            Err(_) => "another number of ranks, or another model".to_owned(),
        };
        Some(Complaint {
            key: format!("model[{index}].cluster.mode"),
            message: format!("`{}` cannot run on this cluster: {why}", model.name),
            hint: Some(hint),
        })
    });
    complaints.collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn found(mode: &str, ranks: u32, heads: u32) -> String {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            r#"{{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":4,"num_attention_heads":24,
            "num_key_value_heads":{heads},"intermediate_size":128,"vocab_size":300}}"#
        );
        fs_err::write(folder.path().join("config.json"), config).unwrap();
        let text = format!(
            "[[model]]\nname = \"m\"\nrepo = \"x/y\"\nport = 1\n[model.cluster]\nbackend = \"mpi\"\n{mode}\n\
             hosts = [{{ ssh = \"laptop\", ranks = {ranks} }}, {{ ssh = \"studio\" }}]\n"
        );
        let registry = Registry::parse(Path::new("/m.toml"), &text).unwrap();
        let here = folder.path().to_owned();
        assert!(divides(&registry, |_| None).is_empty(), "files that are not here say nothing");
        registry.problems(divides(&registry, |_| Some(here.clone()))).plain()
    }

    #[test]
    fn kv_heads_that_the_ranks_cannot_share_are_found_where_the_mode_is_written() {
        assert_eq!(found("mode = \"tensor\"", 1, 2), "");
        let problem = found("mode = \"tensor\"", 2, 2);
        assert!(problem.contains("m.toml:7:"), "{problem}");
        assert!(problem.contains("2 KV heads cannot be divided over 3 ranks"), "{problem}");
        assert!(problem.contains("mode = \"pipeline\""), "{problem}");
        let problem = found("", 2, 2);
        assert!(problem.contains("m.toml:5:"), "the table, where no mode is written: {problem}");
    }

    #[test]
    fn a_pipeline_needs_a_layer_a_rank() {
        assert_eq!(found("mode = \"pipeline\"", 3, 2), "");
        let problem = found("mode = \"pipeline\"", 5, 3);
        assert!(problem.contains("4 layers cannot be divided over 6 ranks"), "{problem}");
    }
}
