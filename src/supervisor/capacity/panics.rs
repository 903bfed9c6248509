//! After a kernel panic manual models wait for a person, since their load may have caused it.

use std::path::Path;

use crate::host::Host;
use crate::host::panics;
use crate::registry::Start;

/// File in the state folder with the names of accepted reports, one per line.
const ACCEPTED: &str = "panics-accepted";

/// Names of the reports that no person has accepted, for panics that led to this boot.
#[derive(Debug, Default)]
pub(super) struct Panics(Vec<String>);

impl Panics {
    /// Looks for reports of panics that led to this boot.
    pub(super) fn look(host: &dyn Host, state: &Path) -> Self {
        let mut found = match panics::fresh(host) {
            Ok(found) => found,
            Err(error) => {
                tracing::info!(%error, "cannot look for panic reports");
                return Self::default();
            }
        };
        let known = accepted(state);
        found.retain(|name| !known.contains(name));
        Self(found)
    }

    pub(super) fn reports(&self) -> &[String] {
        &self.0
    }

    /// Why no model of this kind may start; `None`: it may.
    pub(super) fn refuses(&self, start: Start) -> Option<String> {
        let last = self.0.last().filter(|_| start == Start::Manual)?;
        Some(format!("this machine restarted after a kernel panic ({last})"))
    }

    /// Accepts the panics so far; returns whether there were any.
    pub(super) fn accept(&mut self, state: &Path) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut all = accepted(state);
        all.append(&mut self.0);
        // If this cannot be written, the next supervisor of this boot waits again.
        if let Err(error) = crate::durable::replace(&state.join(ACCEPTED), (all.join("\n") + "\n").as_bytes())
        {
            tracing::warn!(%error, "cannot record that the panics were accepted");
        }
        true
    }
}

fn accepted(state: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(state.join(ACCEPTED)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
