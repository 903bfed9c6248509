//! What `status` says about backends that run without a supervisor.

use crate::api::{StateName, Status};
use crate::backend::spec::Record;
use crate::gate::TAKEN;
use crate::host::Host;
use crate::registry::Start;

/// Adds live backends to a document that was made as a plan. What a run was granted replaces what was planned for it.
pub(crate) fn show(status: &mut Status, live: &[Record], host: &dyn Host) {
    for record in live {
        let Some(model) = status.models.iter_mut().find(|model| model.name == record.spec.model) else {
            continue;
        };
        let planned = match model.start {
            Start::Always => model.memory.estimate_bytes.unwrap_or_default(),
            Start::Manual => 0,
        };
        let granted = record.spec.reserved;
        let budget = &mut status.budget;
        budget.models_bytes = budget.models_bytes.saturating_sub(planned).saturating_add(granted);
        budget.free_bytes =
            budget.free_bytes.saturating_add_unsigned(planned).saturating_sub_unsigned(granted);
        model.state = StateName::Unsupervised;
        model.reason = Some("its process runs without a supervisor, and its gate is closed".to_owned());
        model.hint = Some("mlxctl serve, or mlxctl agent install: the next supervisor adopts it".to_owned());
        model.pid = Some(record.identity.pid);
        model.running_repo = Some(record.spec.repo.clone()).filter(|repo| !repo.is_empty());
        model.uptime_seconds = record.spawned.map(|spawned| host.now().since(spawned).as_secs_f64());
        model.memory.estimate_bytes = Some(granted);
        model.memory.footprint_bytes = host.footprint(record.identity).ok().map(|found| found.bytes.0);
        model.health.alive = true;
    }
}

/// Names the programs on ports that gates and router wait for. Looks at processes only if a port is taken.
pub(crate) fn name_holders(status: &mut Status) {
    let supervisor = status.supervisor.as_ref().map(|supervisor| supervisor.pid);
    let mut named: Vec<(String, String)> = Vec::new();
    let gates = status.models.iter_mut().map(|model| (&model.address, &mut model.gate.problem));
    let router = status.router.iter_mut().map(|router| (&router.address, &mut router.problem));
    for (address, problem) in gates.chain(router) {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let Some((port, text)) = port.zip(problem.as_mut().filter(|text| text.contains(TAKEN))) else {
            continue;
        };
        let holders = crate::host::port_holders(port);
        let Some(holder) = holders.iter().find(|holder| Some(holder.pid) != supervisor) else { continue };
        let better = format!("port {port} is held by {} (pid {})", holder.name, holder.pid);
        named.push((std::mem::replace(text, better.clone()), better));
    }
    for wait in status.supervisor.iter_mut().flat_map(|supervisor| &mut supervisor.waiting_for) {
        for (before, better) in &named {
            *wait = wait.replace(before, better);
        }
    }
}
