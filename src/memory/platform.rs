//! Where MLX runs, and what its runtime takes there beside the arrays.

use serde::{Deserialize, Serialize};

use crate::host::MemoryReading;
use crate::units::Bytes;

/// The backend of MLX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Apple Silicon: one memory for CPU and GPU.
    Metal,
    /// NVIDIA: figures are bytes of the card.
    Cuda,
    /// Linux without a card.
    Cpu,
}

impl Platform {
    /// Where MLX runs on a machine that reads so: Metal on macOS, else the card, if there is one.
    pub(crate) fn of(reading: &MemoryReading) -> Self {
        match (cfg!(target_os = "macos"), reading.gpu_limit) {
            (true, _) => Self::Metal,
            (false, Some(_)) => Self::Cuda,
            (false, None) => Self::Cpu,
        }
    }

    /// As a person says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Metal => "Metal",
            Self::Cuda => "CUDA",
            Self::Cpu => "CPU",
        }
    }

    /// The process just loaded, less its weights.
    ///
    /// CPU: measured, 53.5 to 55.1 MB of anonymous memory over the arrays (Python, mlx-lm and tokenizer, mlx 0.32.4);
    /// what its libraries take in clean pages is shared and can be dropped. CUDA: measured on an H100,
    /// 950 MiB over the active bytes (context and kernels). Metal: not measured; Python, compiled kernels and the
    /// heap of small buffers, until a footprint is learned.
    pub(crate) const fn runtime(self) -> Bytes {
        match self {
            Self::Metal => Bytes::mb(500),
            Self::Cuda => Bytes(950 << 20),
            Self::Cpu => Bytes::mb(54),
        }
    }

    /// What Python holds of a tokenizer, a word of the vocabulary. Measured: 64,000 words take 30 MB. A card holds none
    /// of it.
    pub(crate) const fn word(self) -> u64 {
        match self {
            Self::Metal | Self::Cpu => 470,
            Self::Cuda => 0,
        }
    }

    /// What the backend's environment needs so that freed memory goes back to the system.
    ///
    /// On a CPU, MLX takes its buffers from malloc, and glibc raises the size above which it returns them at once
    /// with every larger one it sees, to 32 MiB (mallopt(3), `M_MMAP_THRESHOLD`); naming a size fixes it.
    pub(crate) const fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Cpu => &[("MALLOC_MMAP_THRESHOLD_", "65536")],
            Self::Metal | Self::Cuda => &[],
        }
    }

    /// What the allocator below MLX keeps once it has worked.
    ///
    /// CUDA: measured on an H100, driver bytes less active, cached and context bytes after 30,000 tokens, 1.3 GiB.
    /// CPU: measured, 1 to 3 MB with [`environment`](Self::environment), 20 to 100 MB without. Metal: not measured.
    pub(crate) const fn slack(self) -> Bytes {
        match self {
            Self::Metal => Bytes::mb(200),
            Self::Cuda => Bytes(1340 << 20),
            Self::Cpu => Bytes::mb(2),
        }
    }
}
