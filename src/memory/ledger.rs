//! Records which model was granted how much memory.

use std::collections::BTreeMap;

use serde::Serialize;

use super::gpu::GpuLimit;
use super::platform::Platform;
use crate::host::{Footprint, MemoryReading};
use crate::registry::Reserve;
use crate::units::Bytes;

/// The memory that a live run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Grant {
    pub bytes: Bytes,
    /// Whether `--force` overrode a refusal; shown until the run ends.
    pub forced: bool,
}

/// All grants on one machine. Owned by the supervisor's loop; nothing else changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The machine, as ssh calls it; `None`: this one.
    pub host: Option<String>,
    pub total: Bytes,
    pub reserves: Vec<Reserve>,
    granted: BTreeMap<String, Grant>,
}

/// The state of the machine at the moment of a check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live<'a> {
    pub reading: &'a MemoryReading,
    /// What the OS charges each running model, by name.
    pub footprints: &'a BTreeMap<String, Footprint>,
    /// The programs of the reserves' `while_running` that run now.
    pub programs: &'a [String],
    pub platform: Platform,
    /// How much the GPU may hold; `None`: no GPU, or not known.
    pub gpu_limit: Option<GpuLimit>,
}

impl Ledger {
    pub(crate) fn new(total: Bytes, reserves: Vec<Reserve>) -> Self {
        Self { host: None, total, reserves, granted: BTreeMap::new() }
    }

    /// Makes it the ledger of another machine, `host`.
    pub(crate) fn of_host(self, host: &str) -> Self {
        Self { host: Some(host.to_owned()), ..self }
    }

    pub(crate) fn granted(&self) -> &BTreeMap<String, Grant> {
        &self.granted
    }

    pub(crate) fn sum(&self) -> Bytes {
        self.granted.values().map(|grant| grant.bytes).sum()
    }

    /// Enters a grant that [`super::judge`] allowed or that was forced; `false`: the model already has one.
    #[must_use = "a second grant of the same model is not entered"]
    pub(crate) fn enter(&mut self, model: &str, grant: Grant) -> bool {
        if self.granted.contains_key(model) {
            return false;
        }
        self.granted.insert(model.to_owned(), grant);
        true
    }

    /// Removes the grant of a run, once its memory has been given back.
    pub(crate) fn release(&mut self, model: &str) -> Option<Grant> {
        self.granted.remove(model)
    }
}
