//! Whether models can be divided over the ranks of their clusters, as far as their files are on this machine.

use super::{Problem, Shape, split};
use crate::registry::{ClusterMode, Complaint, Model, Registry};

/// Every model that mlx_lm was asked about and cannot divide so, or whose `config.json` says that its KV heads,
/// attention heads or layers do not come out even on its ranks. `shape`: what is known of a model that mlx_lm was not
/// asked about, if it is here.
pub(crate) fn divides(
    registry: &Registry,
    shape: impl Fn(&Model) -> Result<Option<Shape>, Problem>,
) -> Vec<Complaint> {
    let complaints = registry.models.iter().enumerate().filter_map(|(index, model)| {
        let cluster = model.cluster.as_ref()?;
        let (mode, ranks) = (cluster.mode, cluster.ranks.len());
        // A config.json that says nothing usable is the estimate's to tell.
        let (why, shape) = match shape(model) {
            Err(Problem::Cluster { why }) => (why, None),
            Ok(Some(shape)) => match split::divides(&shape, mode, ranks) {
                Err(Problem::Cluster { why }) => (why, Some(shape)),
                _ => return None,
            },
            _ => return None,
        };
        let other = match mode {
            ClusterMode::Tensor => ClusterMode::Pipeline,
            ClusterMode::Pipeline => ClusterMode::Tensor,
        };
        let hint = match shape.map(|shape| split::divides(&shape, other, ranks)) {
            Some(Ok(())) => format!("mode = \"{}\", or another number of ranks", other.name()),
            Some(Err(_)) | None => "the other mode, another number of ranks, or another model".to_owned(),
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
    use crate::memory::thumb;

    fn registry(mode: &str, ranks: u32) -> Registry {
        let text = format!(
            "[[model]]\nname = \"m\"\nrepo = \"x/y\"\nport = 1\n[model.cluster]\nbackend = \"mpi\"\n{mode}\n\
             hosts = [{{ ssh = \"laptop\", ranks = {ranks} }}, {{ ssh = \"studio\" }}]\n"
        );
        Registry::parse(Path::new("/m.toml"), &text).unwrap()
    }

    fn found(mode: &str, ranks: u32, heads: u32) -> String {
        let config = format!(
            r#"{{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":4,"num_attention_heads":24,
            "num_key_value_heads":{heads},"intermediate_size":128,"vocab_size":300}}"#
        );
        let shape = thumb::shape(&config).unwrap();
        let registry = registry(mode, ranks);
        assert!(divides(&registry, |_| Ok(None)).is_empty(), "files that are not here say nothing");
        registry.problems(divides(&registry, |_| Ok(Some(shape.clone())))).plain()
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

    #[test]
    fn what_mlx_lm_itself_says_is_passed_on() {
        let registry = registry("mode = \"pipeline\"", 2);
        let refuses =
            |_: &Model| Err(Problem::Cluster { why: "mlx_lm has no pipeline mode for llama".to_owned() });
        let problem = registry.problems(divides(&registry, refuses)).plain();
        assert!(problem.contains("no pipeline mode for llama"), "{problem}");
    }
}
