//! What the registry says about memory pressure and about programs that the models yield to.

use std::collections::BTreeSet;
use std::time::Duration;

/// The registry's say in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PressureSettings {
    /// Pressure has to be critical for so long before a model is stopped, and again before the next one is.
    pub critical_hold: Duration,
    /// Pressure has to be normal for so long before an episode is over.
    pub calm_hold: Duration,
    /// Programs that the models yield to while they run.
    pub yield_to: Vec<String>,
    /// How.
    pub yield_actions: BTreeSet<YieldAction>,
    /// Such a program has to be gone for so long before it counts as ended: launchers start games anew.
    pub yield_hold: Duration,
}

impl Default for PressureSettings {
    fn default() -> Self {
        Self {
            critical_hold: Duration::from_secs(30),
            calm_hold: Duration::from_secs(120),
            yield_to: Vec::new(),
            yield_actions: [YieldAction::Trim, YieldAction::LowerPriority].into(),
            yield_hold: Duration::from_secs(15),
        }
    }
}

/// What is done for a program in [`PressureSettings::yield_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum YieldAction {
    /// Cached memory is given back.
    Trim,
    /// Backends run behind everything else.
    LowerPriority,
    /// Manual models are not started without `--force`.
    RefuseManual,
    /// Manual models are drained and stopped. They do not come back by themselves.
    StopManual,
}
