//! What the GPU may hold, and who says so.

use std::fmt;

use serde::Serialize;

use super::Platform;
use crate::host::MemoryReading;
use crate::units::Bytes;

/// A limit that holds for all models together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct GpuLimit {
    pub bytes: Bytes,
    pub source: LimitSource,
}

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LimitSource {
    /// The owner set `iogpu.wired_limit_mb`.
    Sysctl,
    /// macOS's default, as Metal told MLX when `mlxctl setup` verified the environment.
    Setup,
    /// The size of the card.
    Card,
    /// Of another machine: the smallest default that is reported of macOS, [`GpuLimit::assumed`].
    Assumed,
}

impl GpuLimit {
    /// What a Mac with `total` bytes lets its GPU hold, where nobody can ask it. Reports of 128 GB machines say 84 % and
    /// 75 %; the smallest counts.
    pub(crate) fn assumed(platform: Platform, total: Bytes) -> Option<Self> {
        let bytes = Bytes(total.0 / 4 * 3);
        (platform == Platform::Metal).then_some(Self { bytes, source: LimitSource::Assumed })
    }

    /// The limit on a machine that reads so; `noted` is what `mlxctl setup` was told ([`LimitSource::Setup`]).
    /// `None`: there is no GPU, or nobody says.
    pub(crate) fn of(platform: Platform, reading: &MemoryReading, noted: Option<Bytes>) -> Option<Self> {
        let with = |source| move |bytes| Self { bytes, source };
        match platform {
            Platform::Cpu => None,
            Platform::Cuda => reading.gpu_limit.map(with(LimitSource::Card)),
            // What was set since the setup holds, whatever the default is.
            Platform::Metal => reading
                .gpu_limit
                .map(with(LimitSource::Sysctl))
                .or_else(|| noted.map(with(LimitSource::Setup))),
        }
    }
}

impl LimitSource {
    /// As a remark in brackets.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sysctl => "iogpu.wired_limit_mb",
            Self::Setup => "macOS's default, from mlxctl setup",
            Self::Card => "the card's memory",
            Self::Assumed => "assumed: 75 % of memory, the smallest default reported of macOS",
        }
    }
}

/// "107.5 GB (iogpu.wired_limit_mb)".
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
    fn on_a_mac_what_the_owner_set_goes_before_what_setup_was_told() {
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
