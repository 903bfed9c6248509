//! What is wrong with a model's files, or with the bounds that were set for it.

use crate::units::Bytes;

/// A named problem: the display says what and why, [`Problem::hint`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A file or folder cannot be read.
    #[error("cannot read {file}: {why}")]
    Unreadable {
        /// Its path.
        file: String,
        why: String,
    },
    /// A folder without what mlx_lm loads.
    #[error("{folder} holds no model*.safetensors")]
    NoWeights {
        /// Its path.
        folder: String,
    },
    /// A folder of weights in another format.
    #[error("{folder} holds GGUF files, which mlx-lm does not read, and no model*.safetensors")]
    Gguf {
        /// Its path.
        folder: String,
    },
    /// A safetensors file that is none, is cut off, or lies about what it holds.
    #[error("{file} is no valid safetensors file: {why}")]
    Header {
        /// Its path.
        file: String,
        /// What does not fit.
        why: String,
    },
    /// A file that was never filled.
    #[error("{file}: {why}")]
    Hollow {
        /// Its path.
        file: String,
        why: &'static str,
    },
    /// An index that cannot be understood.
    #[error("{file} is no valid safetensors index: {why}")]
    Index {
        /// Its path.
        file: String,
        /// What does not fit.
        why: String,
    },
    /// A model that mlx_lm cannot divide over the ranks of its cluster.
    #[error("it cannot run on this cluster: {why}")]
    Cluster {
        /// What does not come out.
        why: String,
    },
    /// The index names files that are not there.
    #[error("{count} of the files that the index names are missing in {folder}, the first: {first}")]
    MissingShards {
        folder: String,
        count: usize,
        /// The first of them.
        first: String,
    },
    /// A `config.json` that describes no model.
    #[error("config.json: {key}: {why}")]
    Config {
        /// The key, with its parents.
        key: String,
        why: String,
    },
    /// A ceiling that not even the weights fit under.
    #[error("the ceiling of {ceiling} is below what {name} takes just loaded ({idle})")]
    CeilingBelowIdle {
        name: String,
        /// `memory.ceiling`.
        ceiling: Bytes,
        /// The estimate's idle figure.
        idle: Bytes,
    },
    /// A ceiling under which no request of the wanted length can be served.
    #[error(
        "under the ceiling of {ceiling}, {name} cannot serve one request of {context} tokens: that takes {peak}"
    )]
    CeilingBelowPeak {
        name: String,
        /// `memory.ceiling`.
        ceiling: Bytes,
        /// The context that was asked for, tokens.
        context: u32,
        /// What one such request takes at least.
        peak: Bytes,
        /// The longest context that fits, tokens; 0: none does.
        fits: u32,
    },
    /// mlx_lm cannot quantise the caches of this architecture.
    #[error("kv_bits is set, but mlx_lm cannot quantise the {cache} caches of a {family} model")]
    KvBits {
        /// `model_type`.
        family: String,
        /// "sliding-window", "latent (MLA)".
        cache: &'static str,
    },
}

impl Problem {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { .. } => return None,
            Self::Hollow { .. } => {
                "download the model again: mlxctl pull NAME, or `git lfs pull` in a clone".to_owned()
            }
            Self::NoWeights { .. }
            | Self::Header { .. }
            | Self::Index { .. }
            | Self::MissingShards { .. } => "download the model again: mlxctl pull NAME".to_owned(),
            Self::Gguf { .. } => "choose a model in MLX or safetensors format".to_owned(),
            Self::Config { .. } => "compare config.json with the one in the model's repository".to_owned(),
            Self::CeilingBelowIdle { idle, .. } => {
                format!("raise memory.ceiling above {idle}, or serve a smaller model")
            }
            Self::CeilingBelowPeak { fits: 0, peak, .. } => format!("raise memory.ceiling to {peak}"),
            Self::CeilingBelowPeak { fits, peak, .. } => {
                format!("set memory.context = {fits}, or raise memory.ceiling to {peak}")
            }
            Self::Cluster { .. } => {
                "another number of ranks, the other cluster.mode, or another model".to_owned()
            }
            Self::KvBits { .. } => "remove kv_bits".to_owned(),
        })
    }
}
