//! Who was granted how much memory: bytes are reserved when a start is granted, not when they are seen.

use std::collections::BTreeMap;

use serde::Serialize;

use super::gpu::GpuLimit;
use super::platform::Platform;
use crate::host::{Footprint, MemoryReading};
use crate::registry::Reserve;
use crate::units::Bytes;

/// Bytes that a live run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Grant {
    pub bytes: Bytes,
    /// Whether `--force` went past a refusal; stays visible for as long as the run lives.
    pub forced: bool,
}

/// Who may take what. Owned by the supervisor's loop; nothing else changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Whose memory, as ssh calls it; `None`: this machine's.
    pub host: Option<String>,
    pub total: Bytes,
    pub reserves: Vec<Reserve>,
    granted: BTreeMap<String, Grant>,
}

/// The machine as it is now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live<'a> {
    pub reading: &'a MemoryReading,
    /// What the OS charges the running models.
    pub footprints: &'a BTreeMap<String, Footprint>,
    /// Programs of the reserves' `while_running` that run.
    pub programs: &'a [String],
    pub platform: Platform,
    /// What the GPU may hold there, if it is known.
    pub gpu_limit: Option<GpuLimit>,
}

impl Ledger {
    /// A ledger without grants.
    pub(crate) fn new(total: Bytes, reserves: Vec<Reserve>) -> Self {
        Self { host: None, total, reserves, granted: BTreeMap::new() }
    }

    /// That of another machine.
    pub(crate) fn of_host(self, host: &str) -> Self {
        Self { host: Some(host.to_owned()), ..self }
    }

    /// All grants by model name.
    pub(crate) fn granted(&self) -> &BTreeMap<String, Grant> {
        &self.granted
    }

    /// The sum of all grants.
    pub(crate) fn sum(&self) -> Bytes {
        self.granted.values().map(|grant| grant.bytes).sum()
    }

    /// Reserves bytes for a start that [`super::judge`] allowed, or that was forced; `false`: the model has a grant already.
    #[must_use = "a second grant of the same model is not entered"]
    pub(crate) fn enter(&mut self, model: &str, grant: Grant) -> bool {
        if self.granted.contains_key(model) {
            return false;
        }
        self.granted.insert(model.to_owned(), grant);
        true
    }

    /// Takes the grant of a run back, once its memory is back.
    pub(crate) fn release(&mut self, model: &str) -> Option<Grant> {
        self.granted.remove(model)
    }
}
