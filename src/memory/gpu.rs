//! How much the GPU may hold, and the source of that limit.

use std::fmt;

use serde::Serialize;

use super::Platform;
use crate::host::MemoryReading;
use crate::units::Bytes;

/// A limit for all models together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct GpuLimit {
    pub bytes: Bytes,
    pub source: LimitSource,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LimitSource {
    /// `iogpu.wired_limit_mb`, as set by the owner.
    Sysctl,
    /// macOS's default, as Metal told MLX when `mlxctl setup` verified the environment.
    Setup,
    /// The memory of the CUDA card.
    Card,
    /// The smallest default reported for macOS, used for other machines: [`GpuLimit::assumed`].
    Assumed,
}

impl GpuLimit {
    /// The assumed limit of a Mac with `total` bytes that cannot be asked. Reports for 128 GB machines say 84 % and 75 %;
    /// the smaller one is used.
    pub(crate) fn assumed(platform: Platform, total: Bytes) -> Option<Self> {
        let bytes = Bytes(total.0 / 4 * 3);
        (platform == Platform::Metal).then_some(Self { bytes, source: LimitSource::Assumed })
    }

    /// The limit on a machine with this reading; `noted` is what `mlxctl setup` noted ([`LimitSource::Setup`]).
    /// `None`: there is no GPU, or the limit is not known.
    pub(crate) fn of(platform: Platform, reading: &MemoryReading, noted: Option<Bytes>) -> Option<Self> {
        let with = |source| move |bytes| Self { bytes, source };
        match platform {
            Platform::Cpu => None,
            Platform::Cuda => reading.gpu_limit.map(with(LimitSource::Card)),
            // The owner's value goes before the default that setup noted.
            Platform::Metal => reading
                .gpu_limit
                .map(with(LimitSource::Sysctl))
                .or_else(|| noted.map(with(LimitSource::Setup))),
        }
    }
}

impl LimitSource {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sysctl => "iogpu.wired_limit_mb",
            Self::Setup => "macOS's default, from mlxctl setup",
            Self::Card => "the card's memory",
            Self::Assumed => "assumed: 75 % of memory, the smallest default reported of macOS",
        }
    }
}

impl fmt::Display for GpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.bytes, self.source.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(platform: Platform, read: Option<u64>, noted: Option<u64>) -> Option<(Bytes, LimitSource)> {
        let reading = MemoryReading { gpu_limit: read.map(Bytes::gb), ..MemoryReading::default() };
        GpuLimit::of(platform, &reading, noted.map(Bytes::gb)).map(|limit| (limit.bytes, limit.source))
    }

    #[test]
    fn on_a_mac_the_owners_value_goes_before_the_one_setup_noted() {
        assert_eq!(limit(Platform::Metal, Some(96), Some(107)), Some((Bytes::gb(96), LimitSource::Sysctl)));
        assert_eq!(limit(Platform::Metal, None, Some(107)), Some((Bytes::gb(107), LimitSource::Setup)));
        assert_eq!(limit(Platform::Metal, None, None), None);
    }

    #[test]
    fn a_card_is_its_own_limit_and_a_cpu_has_none() {
        assert_eq!(limit(Platform::Cuda, Some(80), Some(107)), Some((Bytes::gb(80), LimitSource::Card)));
        assert_eq!(limit(Platform::Cuda, None, Some(107)), None);
        assert_eq!(limit(Platform::Cpu, None, Some(107)), None);
    }

    #[test]
    fn a_limit_names_its_source() {
        let limit = GpuLimit { bytes: Bytes::gb(107), source: LimitSource::Setup };
        assert_eq!(limit.to_string(), "107 GB (macOS's default, from mlxctl setup)");
    }
}
