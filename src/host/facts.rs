//! The constants of a machine that all systems report in the same way.

use crate::host::seam::Facts;
use crate::units::Bytes;

/// Takes some milliseconds: to be called once, on first use.
pub(super) fn collect(os: String, memory: Bytes, boot_id: String) -> Facts {
    let cpu = sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing());
    let system = sysinfo::System::new_with_specifics(cpu);
    let brand = system.ok().and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()));
    let chip = brand.filter(|brand| !brand.is_empty());
    let cores = sysinfo::System::physical_core_count()
        .ok()
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .and_then(|cores| u32::try_from(cores).ok())
        .unwrap_or(1);
    Facts { os, chip, memory, cores, boot_id }
}
