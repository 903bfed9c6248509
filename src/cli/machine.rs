//! What a command can say about the machine without a supervisor.

use crate::host::Host;
use crate::registry::Registry;
pub(crate) use crate::supervisor::host_status;

/// The running programs among those that the registry's reserves are tied to (`while_running`).
pub(super) fn running(host: &dyn Host, registry: &Registry) -> Vec<String> {
    let names: Vec<String> =
        registry.reserves.iter().flat_map(|reserve| reserve.while_running.iter().cloned()).collect();
    if names.is_empty() { names } else { host.running(&names) }
}
