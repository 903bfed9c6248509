//! The planned budget: total − reserves − models.

use serde::Serialize;

use crate::api::{BudgetStatus, ReserveStatus};
use crate::registry::{Registry, Reserve, Start};
use crate::units::Bytes;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PlannedModel {
    pub name: String,
    pub start: Start,
    /// What admission would reserve; `None`: neither the files nor a declared size are known.
    pub bytes: Option<Bytes>,
    /// Whether `bytes` is the registry's `size`, because the files are missing.
    pub declared: bool,
    /// Whether this plan counts it as running.
    pub running: bool,
}

/// One scenario of the plan: exactly these models run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    /// "always-on only", "with 70b".
    pub name: String,
    pub models: Vec<String>,
    pub models_bytes: Bytes,
    /// Total less the reserves that always hold, less the models.
    pub free_bytes: i64,
    /// Total less the models: room for a game, not counting what the system itself needs.
    pub headroom_bytes: i64,
    /// Total less all reserves, less the models: what is left while every program that has a reserve runs.
    pub free_all_reserves_bytes: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Budget {
    /// The balance with the reserves and models named as running.
    pub now: BudgetStatus,
    pub models: Vec<PlannedModel>,
    /// Always-on only, then with each manual model, then with all of them.
    pub cases: Vec<Case>,
}

/// What admission would reserve for one model: [`super::Estimate::reserve`] and [`super::Estimate::declared`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    pub bytes: Bytes,
    pub declared: bool,
}

/// Whether `reserve` counts while `running` runs: names of programs or reserves, compared without regard to case.
pub(crate) fn in_force(reserve: &Reserve, running: &[String]) -> bool {
    reserve.while_running.is_empty()
        || running.iter().any(|name| {
            reserve.name.eq_ignore_ascii_case(name)
                || reserve.while_running.iter().any(|program| program.eq_ignore_ascii_case(name))
        })
}

/// Total − reserves in force − models. Everything that shows or checks a budget uses this sum.
/// `running` names the programs and reserves that run; `models` is what models hold, granted or planned.
pub(crate) fn balance(total: Bytes, reserves: &[Reserve], running: &[String], models: Bytes) -> BudgetStatus {
    let reserves: Vec<ReserveStatus> = reserves
        .iter()
        .map(|reserve| ReserveStatus {
            name: reserve.name.clone(),
            bytes: reserve.size.0,
            active: in_force(reserve, running),
        })
        .collect();
    let reserved: Bytes =
        reserves.iter().filter(|reserve| reserve.active).map(|reserve| Bytes(reserve.bytes)).sum();
    BudgetStatus {
        total_bytes: total.0,
        reserved_bytes: reserved.0,
        models_bytes: models.0,
        free_bytes: difference(total, reserved + models),
        reserves,
    }
}

/// Plans a machine of `total` bytes. `running` names models (or their aliases), programs and reserves that run in
/// addition to the always-on models; `planned` is in the order of the registry's models.
pub(crate) fn budget(
    registry: &Registry,
    total: Bytes,
    running: &[String],
    planned: &[Option<Planned>],
) -> Budget {
    let models: Vec<PlannedModel> = registry
        .models
        .iter()
        .zip(planned.iter().chain(std::iter::repeat(&None)))
        .map(|(model, planned)| PlannedModel {
            name: model.name.clone(),
            start: model.start,
            bytes: planned.map(|planned| planned.bytes),
            declared: planned.is_some_and(|planned| planned.declared),
            running: model.start == Start::Always
                || running.iter().any(|name| *name == model.name || model.aliases.contains(name)),
        })
        .collect();
    let now = balance(total, &registry.reserves, running, sum(models.iter().filter(|model| model.running)));
    let always = |model: &&PlannedModel| model.start == Start::Always;
    let manual: Vec<&PlannedModel> = models.iter().filter(|model| !always(model)).collect();
    let mut cases = vec![case("always-on only".to_owned(), models.iter().filter(always), registry, total)];
    for one in &manual {
        let with = models.iter().filter(|model| always(model) || model.name == one.name);
        cases.push(case(format!("with {}", one.name), with, registry, total));
    }
    if manual.len() > 1 {
        cases.push(case("with all".to_owned(), models.iter(), registry, total));
    }
    Budget { now, models, cases }
}

fn sum<'a>(models: impl Iterator<Item = &'a PlannedModel>) -> Bytes {
    models.filter_map(|model| model.bytes).sum()
}

fn case<'a>(
    name: String,
    models: impl Iterator<Item = &'a PlannedModel> + Clone,
    registry: &Registry,
    total: Bytes,
) -> Case {
    let taken = sum(models.clone());
    let everything: Vec<String> = registry.reserves.iter().map(|reserve| reserve.name.clone()).collect();
    let free = |running: &[String]| balance(total, &registry.reserves, running, taken).free_bytes;
    Case {
        name,
        models: models.map(|model| model.name.clone()).collect(),
        models_bytes: taken,
        free_bytes: free(&[]),
        headroom_bytes: difference(total, taken),
        free_all_reserves_bytes: free(&everything),
    }
}

/// `a − b`, saturating at the ends of `i64`.
fn difference(a: Bytes, b: Bytes) -> i64 {
    let exact = i128::from(a.0) - i128::from(b.0);
    i64::try_from(exact).unwrap_or(if exact < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn seed() -> Registry {
        let text = include_str!("../../config/models.toml");
        Registry::parse(std::path::Path::new("/models.toml"), text).unwrap()
    }

    fn plan(running: &[&str]) -> Budget {
        let planned = |gb| Some(Planned { bytes: Bytes::gb(gb), declared: true });
        let running: Vec<String> = running.iter().map(|name| (*name).to_owned()).collect();
        budget(&seed(), Bytes::gb(128), &running, &[planned(20), planned(40)])
    }

    #[test]
    fn the_deployment_has_98_gb_free_and_58_with_both_models() {
        let cases = plan(&[]).cases;
        let gb = |bytes: i64| bytes / 1_000_000_000;
        let free: Vec<i64> = cases.iter().map(|case| gb(case.free_bytes)).collect();
        let headroom: Vec<i64> = cases.iter().map(|case| gb(case.headroom_bytes)).collect();
        assert_eq!((free, headroom), (vec![98, 58], vec![108, 68]));
        assert_eq!(gb(cases[1].free_all_reserves_bytes), 48);
    }

    #[test]
    fn what_runs_is_counted_and_nothing_else() {
        assert_eq!(plan(&[]).now.free_bytes, 98_000_000_000);
        assert_eq!(plan(&["large"]).now.free_bytes, 58_000_000_000, "by alias");
        assert_eq!(plan(&["70b", "civ5xp"]).now.free_bytes, 48_000_000_000);
    }

    #[test]
    fn a_plan_that_does_not_fit_is_negative() {
        let planned = [Some(Planned { bytes: Bytes(u64::MAX), declared: false })];
        assert_eq!(budget(&seed(), Bytes::gb(1), &[], &planned).now.free_bytes, i64::MIN);
    }
}
