//! Where MLX runs, and what its runtime takes there in addition to the arrays.

use serde::{Deserialize, Serialize};

use crate::host::MemoryReading;
use crate::units::Bytes;

/// The device that MLX computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Apple Silicon: CPU and GPU share one memory.
    Metal,
    /// NVIDIA: figures are bytes on the card.
    Cuda,
    /// Linux without an NVIDIA card.
    Cpu,
}

impl Platform {
    /// The platform of a machine with this reading: Metal on macOS, else CUDA if there is a card, else CPU.
    pub(crate) fn of(reading: &MemoryReading) -> Self {
        match (cfg!(target_os = "macos"), reading.gpu_limit) {
            (true, _) => Self::Metal,
            (false, Some(_)) => Self::Cuda,
            (false, None) => Self::Cpu,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Metal => "Metal",
            Self::Cuda => "CUDA",
            Self::Cpu => "CPU",
        }
    }

    /// What a loaded process takes in addition to its weights.
    ///
    /// CPU: measured, 53.5 to 55.1 MB of anonymous memory above the arrays (Python, mlx-lm and tokenizer, mlx 0.32.4);
    /// clean pages of libraries are shared and can be dropped, so they do not count. CUDA: measured on an H100, 950 MiB
    /// above the active bytes (context and kernels). Metal: not measured; a guess for Python, compiled kernels and the
    /// heap of small buffers, used until a footprint is learned.
    pub(crate) const fn runtime(self) -> Bytes {
        match self {
            Self::Metal => Bytes::mb(500),
            Self::Cuda => Bytes(950 << 20),
            Self::Cpu => Bytes::mb(54),
        }
    }

    /// Bytes that Python holds per word of a tokenizer's vocabulary. Measured: 64,000 words take 30 MB. 0 on a card,
    /// which holds none of it.
    pub(crate) const fn word(self) -> u64 {
        match self {
            Self::Metal | Self::Cpu => 470,
            Self::Cuda => 0,
        }
    }

    /// Environment variables a backend needs so that freed memory goes back to the system.
    ///
    /// On a CPU, MLX allocates its buffers with malloc. glibc returns freed blocks above a threshold at once, but raises
    /// that threshold, up to 32 MiB, with every larger block freed (mallopt(3), `M_MMAP_THRESHOLD`); setting it stops that.
    pub(crate) const fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Cpu => &[("MALLOC_MMAP_THRESHOLD_", "65536")],
            Self::Metal | Self::Cuda => &[],
        }
    }

    /// What the allocator below MLX keeps after requests.
    ///
    /// CUDA: measured on an H200 at the peaks of prompts of 8,000 and 30,000 tokens of a 32B, driver bytes less MLX's peak,
    /// buffer cache and context: 0.9 and 2.1 GB.
    /// CPU: measured, 1 to 3 MB with [`environment`](Self::environment), 20 to 100 MB without. Metal: not measured.
    pub(crate) const fn slack(self) -> Bytes {
        match self {
            Self::Metal => Bytes::mb(200),
            Self::Cuda => Bytes(2 << 30),
            Self::Cpu => Bytes::mb(2),
        }
    }
}
