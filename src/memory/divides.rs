//! Checks that models can be divided over the ranks of their clusters, as far as their files are on this machine.

use super::{Problem, Shape, split};
use crate::registry::{ClusterMode, Complaint, Model, Registry};

/// A complaint for every model that mlx_lm says it cannot divide this way, or whose KV heads, attention heads or layers
/// by `config.json` do not divide evenly among its ranks. `shape` gives [`Problem::Cluster`] where mlx_lm refused, else
/// the shape of a model that mlx_lm has not been asked about; `None` if its files are not here.
pub(crate) fn divides(
    registry: &Registry,
    shape: impl Fn(&Model) -> Result<Option<Shape>, Problem>,
) -> Vec<Complaint> {
    let complaints = registry.models.iter().enumerate().filter_map(|(index, model)| {
        let cluster = model.cluster.as_ref()?;
        let (mode, ranks) = (cluster.mode, cluster.ranks.len());
        // An unusable config.json is reported by the estimate.
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
        assert!(divides(&registry, |_| Ok(None)).is_empty(), "missing files are not a complaint");
        registry.problems(divides(&registry, |_| Ok(Some(shape.clone())))).plain()
    }

    #[test]
    fn kv_heads_that_the_ranks_cannot_share_are_reported_at_the_line_of_the_mode() {
        assert_eq!(found("mode = \"tensor\"", 1, 2), "");
        let problem = found("mode = \"tensor\"", 2, 2);
        assert!(problem.contains("m.toml:7:"), "{problem}");
        assert!(problem.contains("2 KV heads cannot be divided over 3 ranks"), "{problem}");
        assert!(problem.contains("mode = \"pipeline\""), "{problem}");
        let problem = found("", 2, 2);
        assert!(problem.contains("m.toml:5:"), "without a mode, the line of the table: {problem}");
    }

    #[test]
    fn a_pipeline_needs_at_least_one_layer_per_rank() {
        assert_eq!(found("mode = \"pipeline\"", 3, 2), "");
        let problem = found("mode = \"pipeline\"", 5, 3);
        assert!(problem.contains("4 layers cannot be divided over 6 ranks"), "{problem}");
    }

    #[test]
    fn a_refusal_by_mlx_lm_is_passed_on() {
        let registry = registry("mode = \"pipeline\"", 2);
        let refuses =
            |_: &Model| Err(Problem::Cluster { why: "mlx_lm has no pipeline mode for llama".to_owned() });
        let problem = registry.problems(divides(&registry, refuses)).plain();
        assert!(problem.contains("no pipeline mode for llama"), "{problem}");
    }
}
