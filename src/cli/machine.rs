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

/// An RFC 3339 time in this machine's time zone; unchanged if it is not one.
pub(super) fn local_time(at: &str) -> String {
    let local = humantime::parse_rfc3339(at).ok().and_then(crate::host::posix::local_time);
    local.unwrap_or_else(|| at.to_owned())
}
