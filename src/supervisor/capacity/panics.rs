//! After a kernel panic manual models wait for a person: what brought the Mac down may have been their load.

use std::path::Path;

use crate::host::Host;
use crate::host::panics;
use crate::registry::Start;

/// In the state folder: the reports that somebody has answered for, a name a line.
const ACCEPTED: &str = "panics-accepted";

/// Reports of this boot that nobody has answered for.
#[derive(Debug, Default)]
pub(super) struct Panics(Vec<String>);

impl Panics {
    /// Looks whether this boot began with a panic.
    pub(super) fn look(host: &dyn Host, state: &Path) -> Self {
        let mut found = match panics::fresh(host) {
            Ok(found) => found,
            Err(error) => {
                tracing::info!(%error, "panic reports cannot be looked for");
                return Self::default();
            }
        };
        let known = accepted(state);
        found.retain(|name| !known.contains(name));
        Self(found)
    }

    /// The names of the reports.
    pub(super) fn reports(&self) -> &[String] {
        &self.0
    }

    /// Why no model of this kind may start; `None`: it may.
    pub(super) fn refuses(&self, start: Start) -> Option<String> {
        let last = self.0.last().filter(|_| start == Start::Manual)?;
        Some(format!("this machine has come up from a kernel panic ({last})"))
    }

    /// Somebody has answered for the panics so far. Whether there were any.
    pub(super) fn accept(&mut self, state: &Path) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut all = accepted(state);
        all.append(&mut self.0);
        // Where it cannot be written, the next supervisor of this boot asks again.
        if let Err(error) = crate::durable::replace(&state.join(ACCEPTED), (all.join("\n") + "\n").as_bytes())
        {
            tracing::warn!(%error, "that the panics were answered for is not kept");
        }
        true
    }
}

fn accepted(state: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(state.join(ACCEPTED)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
