//! After a kernel panic manual models wait for a person: what brought the Mac down may have been their load.

use std::path::Path;

use crate::host::panics;
use crate::lifecycle::Name;
use crate::registry::Start;
use crate::supervisor::driver::Driver;

/// In the state folder: the reports that somebody has answered for, a name a line.
const ACCEPTED: &str = "panics-accepted";

/// Reports of this boot that nobody has answered for.
#[derive(Debug, Default)]
pub(in crate::supervisor) struct Panics(Vec<String>);

impl Panics {
    /// Why no model of this kind may start; `None`: it may.
    pub fn refuses(&self, start: Start) -> Option<String> {
        let last = self.0.last().filter(|_| start == Start::Manual)?;
        Some(format!("this machine has come up from a kernel panic ({last})"))
    }
}

fn accepted(state: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(state.join(ACCEPTED)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

impl Driver {
    /// Looks whether this boot began with a panic.
    pub fn look_for_panics(&mut self) {
        let mut found = match panics::fresh(&*self.host) {
            Ok(found) => found,
            Err(error) => {
                tracing::info!(%error, "panic reports cannot be looked for");
                return;
            }
        };
        let known = accepted(&self.registry.paths.state);
        found.retain(|name| !known.contains(name));
        for name in &found {
            let text =
                format!("the machine came up from a kernel panic: {name}; manual models wait for --force");
            let hint = "mlxctl doctor names the report; mlxctl start MODEL --force answers for it";
            self.note_hinted(None, "kernel_panic", &text, Some(hint));
        }
        self.panics = Panics(found);
    }

    /// A manual model is started by force: whoever did that has answered for the panics so far.
    pub fn accept_panics(&mut self, name: &Name) {
        let manual = self.fleet.get(name).is_some_and(|model| model.policy.start == Start::Manual);
        if !manual || self.panics.0.is_empty() {
            return;
        }
        let names = std::mem::take(&mut self.panics.0);
        let state = &self.registry.paths.state;
        let mut all = accepted(state);
        all.extend(names);
        // Where it cannot be written, the next supervisor of this boot asks again.
        if let Err(error) = crate::durable::replace(&state.join(ACCEPTED), (all.join("\n") + "\n").as_bytes())
        {
            tracing::warn!(%error, "that the panics were answered for is not kept");
        }
        self.note(
            Some(name),
            "kernel_panic",
            "started by force after a kernel panic: manual models may start again",
        );
    }
}
