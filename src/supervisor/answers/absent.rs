//! What `status` shows while no supervisor runs: the registry's models, stopped, and the planned budget.

use std::net::SocketAddr;

use crate::api::{HostStatus, ModelStatus, RouterStatus, SCHEMA, Status};
use crate::memory::budget;
use crate::memory::budget::Planned;
use crate::registry::{Model, Registry};
use crate::units::Bytes;

/// The document of `mlxctl status` without a supervisor, with the plan of `mlxctl budget`. Always-on models count;
/// a reserve that is tied to programs counts if one of them is in `running`. `planned` is what admission would reserve,
/// in the registry's order.
pub(crate) fn planned_status(
    registry: &Registry,
    host: HostStatus,
    running: &[String],
    planned: &[Option<Planned>],
) -> Status {
    let plan = budget(registry, Bytes(host.memory_bytes), running, planned);
    Status {
        schema: SCHEMA,
        supervisor: None,
        budget: plan.now,
        host,
        models: registry
            .models
            .iter()
            .zip(&plan.models)
            .map(|(model, planned)| stopped(registry, model, planned.bytes))
            .collect(),
        router: router(registry, None),
        answer: None,
    }
}

/// The router's address, if the registry has a router. `problem`: why it does not listen.
pub(super) fn router(registry: &Registry, problem: Option<String>) -> Option<RouterStatus> {
    let address = SocketAddr::new(registry.network.host, registry.router?);
    Some(RouterStatus { address: address.to_string(), problem })
}

fn stopped(registry: &Registry, model: &Model, planned: Option<Bytes>) -> ModelStatus {
    let address = SocketAddr::new(registry.network.host, model.port).to_string();
    let mut status = ModelStatus::stopped(&model.name, model.source.to_string(), model.start, address);
    status.memory.estimate_bytes = planned.map(|bytes| bytes.0);
    status.memory.kv_limit_bytes = model.memory.kv_limit.map(|limit| limit.0);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StateName;
    use crate::host::Pressure;

    fn plan(memory: Bytes, running: &[String]) -> Status {
        let text = include_str!("../../../config/models.toml");
        let registry = Registry::parse(std::path::Path::new("/etc/mlxctl/models.toml"), text).unwrap();
        let host = HostStatus {
            os: "macOS 15.1".into(),
            chip: None,
            memory_bytes: memory.0,
            available_bytes: None,
            pressure: Pressure::Normal,
            swap_used_bytes: None,
            gpu_limit_bytes: None,
        };
        let declared = |gb| Some(Planned { bytes: Bytes::gb(gb), declared: true });
        planned_status(&registry, host, running, &[declared(20), declared(40)])
    }

    #[test]
    fn the_plan_counts_always_on_models_and_the_reserves_in_force() {
        let status = plan(Bytes::gb(128), &[]);
        let budget = &status.budget;
        assert_eq!((budget.reserved_bytes, budget.models_bytes), (10_000_000_000, 20_000_000_000));
        assert_eq!(budget.free_bytes, 98_000_000_000);
        assert!(status.supervisor.is_none());
        assert!(status.models.iter().all(|model| model.state == StateName::Stopped));
        assert_eq!(status.models[1].address, "192.168.132.21:8801");
    }

    #[test]
    fn a_reserve_counts_while_its_program_runs() {
        let status = plan(Bytes::gb(128), &["CIV5XP".to_owned()]);
        assert_eq!(status.budget.free_bytes, 88_000_000_000);
        assert!(status.budget.reserves.iter().all(|reserve| reserve.active));
    }

    #[test]
    fn a_plan_that_does_not_fit_is_negative() {
        assert_eq!(plan(Bytes::gb(16), &[]).budget.free_bytes, -14_000_000_000);
    }
}
