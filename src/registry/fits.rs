//! Whether everything that always runs fits into a machine's memory.

use super::problem::{Finding, Problems};
use super::{Registry, Start};
use crate::units::Bytes;

/// Checks that the always-on models, by their declared sizes, and the reserves that always hold fit into `total` bytes.
/// Models without a declared size do not count: admission measures them.
pub(crate) fn fits(registry: &Registry, total: Bytes) -> Problems {
    Problems::new(&registry.file, registry.written.text.clone(), too_much(registry, total))
}

pub(super) fn too_much(registry: &Registry, total: Bytes) -> Vec<Finding> {
    let reserves = registry.reserves.iter().filter(|reserve| reserve.while_running.is_empty());
    let mut terms: Vec<String> =
        reserves.clone().map(|reserve| format!("{} {}", reserve.name, reserve.size)).collect();
    let mut sum: Bytes = reserves.map(|reserve| reserve.size).sum();
    let mut over = None;
    for (index, model) in registry.models.iter().enumerate() {
        let (Start::Always, Some(size)) = (model.start, model.size) else { continue };
        sum += size;
        terms.push(format!("{} {size}", model.name));
        if sum > total && over.is_none() {
            over = Some(format!("model[{index}].size"));
        }
    }
    if sum <= total {
        return Vec::new();
    }
    let missing = sum.saturating_sub(total);
    let key = over.unwrap_or_else(|| "memory.reserve".to_owned());
    vec![Finding {
        span: registry.written.find(&key),
        message: format!(
            "reserves and always-on models need {sum}, {missing} more than the machine's {total}: {}",
            terms.join(" + ")
        ),
        hint: Some(
            "set start = \"manual\" for one of them, choose a smaller model, or lower a reserve".into(),
        ),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::load::seed;

    #[test]
    fn the_example_deployment_fits_its_machine() {
        assert!(fits(&seed(), Bytes::gb(128)).is_empty());
    }

    #[test]
    fn always_on_models_that_cannot_fit_are_reported_with_every_term() {
        let mut registry = seed();
        registry.models[1].start = Start::Always;
        assert!(fits(&registry, Bytes::gb(70)).is_empty(), "10 + 20 + 40 is exactly 70");
        let problems = fits(&registry, Bytes::gb(64));
        let text = problems.plain();
        for part in
            ["70.0 GB", "64.0 GB", "6.00 GB more than", "macOS + apps 10.0 GB + 32b 20.0 GB + 70b 40.0 GB"]
        {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        assert!(problems.iter().all(|problem| problem.place.is_some()));
    }

    #[test]
    fn manual_models_and_a_game_that_is_not_running_do_not_count() {
        assert!(fits(&seed(), Bytes::gb(30)).is_empty());
        assert_eq!(fits(&seed(), Bytes(29_999_999_999)).len(), 1);
    }
}
