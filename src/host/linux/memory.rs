//! The machine's memory, bounded by the cgroup that this process is in.

use std::io;
use std::path::{Path, PathBuf};

use super::super::procfs;
use super::process::read;
use crate::host::seam::{MemoryReading, Pressure};
use crate::units::Bytes;

/// The memory cgroup (v2) and those above it that can have a limit. A process may be moved to another cgroup, but
/// nobody does that to a daemon.
#[derive(Debug, Default)]
pub(super) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// Those of the calling process; none under cgroup v1, whose limits are not looked at.
    pub(super) fn own() -> Self {
        let text = read("/proc/self/cgroup").unwrap_or_default();
        let Some(path) = procfs::cgroup_path(&text) else { return Self::default() };
        let root = Path::new("/sys/fs/cgroup");
        let own = root.join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|folder| folder.starts_with(root));
        Self(above.filter(|folder| folder.join("memory.max").exists()).map(Path::to_owned).collect())
    }

    /// The tightest limit, if there is one.
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

/// What this process may use of the installed memory.
pub(super) fn total(cgroups: &Cgroups) -> Bytes {
    let installed = read("/proc/meminfo").ok().and_then(|text| procfs::labelled(&text, "MemTotal"));
    let installed = installed.unwrap_or_default();
    cgroups.limit().map_or(installed, |limit| limit.min(installed))
}

/// All but the GPU's.
pub(super) fn reading(cgroups: &Cgroups) -> io::Result<MemoryReading> {
    let text = read("/proc/meminfo")?;
    let machine = procfs::labelled(&text, "MemAvailable");
    let available = match (machine, cgroups.available()) {
        (Some(machine), Some(cgroup)) => Some(machine.min(cgroup)),
        (machine, cgroup) => machine.or(cgroup),
    };
    let swap = |key| procfs::labelled(&text, key);
    let swap_used = swap("SwapTotal").zip(swap("SwapFree")).map(|(total, free)| total.saturating_sub(free));
    // Kernels without pressure accounting have no such file, or an empty one.
    let pressure = read("/proc/pressure/memory").map_or(Pressure::Normal, |text| procfs::pressure(&text));
    Ok(MemoryReading { available, swap_used, pressure, gpu_limit: None, gpu_free: None })
}
