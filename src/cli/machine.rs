//! What a command can say about the machine while no supervisor runs.

use crate::api::HostStatus;
use crate::host::{Host, MemoryReading};
use crate::registry::Registry;

/// The machine as `status` shows it. What the system does not tell stays unknown.
#[must_use]
pub fn host_status(host: &dyn Host) -> HostStatus {
    let facts = host.facts();
    let MemoryReading { available, swap_used, pressure, gpu_limit, .. } = host.memory().unwrap_or_default();
    HostStatus {
        os: facts.os.clone(),
        chip: facts.chip.clone(),
        memory_bytes: facts.memory.0,
        available_bytes: available.map(|bytes| bytes.0),
        pressure,
        swap_used_bytes: swap_used.map(|bytes| bytes.0),
        gpu_limit_bytes: gpu_limit.map(|bytes| bytes.0),
    }
}

/// Which of the programs that the registry's reserves are tied to run now.
#[must_use]
pub fn running(host: &dyn Host, registry: &Registry) -> Vec<String> {
    let names: Vec<String> =
        registry.reserves.iter().flat_map(|reserve| reserve.while_running.iter().cloned()).collect();
    if names.is_empty() { names } else { host.running(&names) }
}
