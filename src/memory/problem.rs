//! What can be wrong with a model's files or with the bounds set for it.

use crate::units::Bytes;

/// A named problem: `Display` says what and why, [`Problem::hint`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("cannot read {file}: {why}")]
    Unreadable { file: String, why: String },
    /// A folder without the weights that mlx_lm loads.
    #[error("{folder} holds no model*.safetensors")]
    NoWeights { folder: String },
    /// A folder with weights in GGUF format only.
    #[error("{folder} holds GGUF files, which mlx-lm does not read, and no model*.safetensors")]
    Gguf { folder: String },
    /// A safetensors file that is malformed, is cut off, or does not match its header.
    #[error("{file} is not a valid safetensors file: {why}")]
    Header { file: String, why: String },
    /// A file that is empty or a Git LFS pointer.
    #[error("{file}: {why}")]
    Hollow { file: String, why: &'static str },
    /// An index that cannot be parsed or names files outside its folder.
    #[error("{file} is not a valid safetensors index: {why}")]
    Index { file: String, why: String },
    /// mlx_lm cannot divide the model over the ranks of its cluster.
    #[error("it cannot run on this cluster: {why}")]
    Cluster { why: String },
    /// The index names files that are not there.
    #[error("{count} of the files that the index names are missing from {folder}, the first: {first}")]
    MissingShards { folder: String, count: usize, first: String },
    /// A `config.json` that does not describe a model.
    #[error("config.json: {key}: {why}")]
    Config {
        /// With its parents: `text_config.hidden_size`.
        key: String,
        why: String,
    },
    /// A ceiling below the estimate's idle figure.
    #[error("the ceiling of {ceiling} is below what {name} takes just loaded ({idle})")]
    CeilingBelowIdle { name: String, ceiling: Bytes, idle: Bytes },
    /// A ceiling under which no request of the configured length can be served.
    #[error(
        "under the ceiling of {ceiling}, {name} cannot serve one request of {context} tokens: that takes {peak}"
    )]
    CeilingBelowPeak {
        name: String,
        ceiling: Bytes,
        /// The configured context, tokens.
        context: u32,
        /// The least that one such request takes.
        peak: Bytes,
        /// The longest context that fits, tokens; 0: none does.
        fits: u32,
    },
    /// `kv_bits` for an architecture whose caches mlx_lm cannot quantise.
    #[error("kv_bits is set, but mlx_lm cannot quantise the {cache} caches of a {family} model")]
    KvBits { family: String, cache: &'static str },
}

impl Problem {
    /// What to do about it; `None`: nothing that the error does not say.
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
