//! The machine's memory, bounded by the cgroup of this process.

use std::io;
use std::path::{Path, PathBuf};

use super::super::procfs;
use super::process::read;
use crate::host::seam::{MemoryReading, Pressure};
use crate::units::Bytes;

/// The memory cgroup (v2) and its ancestors that can have a limit. Read once: a running daemon is not moved to another.
#[derive(Debug, Default)]
pub(super) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// Those of the calling process; none under cgroup v1, whose limits are ignored.
    pub(super) fn own() -> Self {
        let text = read("/proc/self/cgroup").unwrap_or_default();
        let Some(path) = procfs::cgroup_path(&text) else { return Self::default() };
        let root = Path::new("/sys/fs/cgroup");
        let own = root.join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|folder| folder.starts_with(root));
        Self(above.filter(|folder| folder.join("memory.max").exists()).map(Path::to_owned).collect())
    }

    /// The lowest limit, if there is one.
    pub(super) fn limit(&self) -> Option<Bytes> {
        self.0.iter().filter_map(|folder| limit(folder)).min()
    }

    fn available(&self) -> Option<Bytes> {
        let one = |folder: &PathBuf| {
            let limit = limit(folder)?;
            let current = procfs::cgroup_limit(&file(folder, "memory.current")?)?;
            Some(procfs::cgroup_available(limit, current, &file(folder, "memory.stat")?))
        };
        self.0.iter().filter_map(one).min()
    }
}

fn file(folder: &Path, name: &str) -> Option<String> {
    read(folder.join(name).to_str()?).ok()
}

fn limit(folder: &Path) -> Option<Bytes> {
    procfs::cgroup_limit(&file(folder, "memory.max")?)
}

/// Installed memory, or the cgroup's limit if that is lower.
pub(super) fn total(cgroups: &Cgroups) -> Bytes {
    let installed = read("/proc/meminfo").ok().and_then(|text| procfs::labelled(&text, "MemTotal"));
    let installed = installed.unwrap_or_default();
    cgroups.limit().map_or(installed, |limit| limit.min(installed))
}

/// Everything except the GPU's fields.
pub(super) fn reading(cgroups: &Cgroups) -> io::Result<MemoryReading> {
    let text = read("/proc/meminfo")?;
    let machine = procfs::labelled(&text, "MemAvailable");
    let available = match (machine, cgroups.available()) {
        (Some(machine), Some(cgroup)) => Some(machine.min(cgroup)),
        (machine, cgroup) => machine.or(cgroup),
    };
    let swap = |key| procfs::labelled(&text, key);
    let swap_used = swap("SwapTotal").zip(swap("SwapFree")).map(|(total, free)| total.saturating_sub(free));
    // Kernels without pressure accounting lack this file, or it is empty.
    let pressure = read("/proc/pressure/memory").map_or(Pressure::Normal, |text| procfs::pressure(&text));
    Ok(MemoryReading { available, swap_used, pressure, gpu_limit: None, gpu_free: None })
}
