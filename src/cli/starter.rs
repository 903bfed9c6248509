//! What `mlxctl init` proposes: models that fit the machine. Pure.

mod text;

pub(crate) use text::{FIRST_PORT, Machine, text};

use crate::units::Bytes;

/// A model worth proposing; all are 4-bit repositories on the Hugging Face hub.
#[derive(Debug, PartialEq)]
pub(super) struct Known {
    pub name: &'static str,
    pub repo: &'static str,
    pub aliases: &'static [&'static str],
    /// Size of its files, MB: parameters × 4.5 bits (groups of 64 share a scale and a bias of 16 bits each).
    weights_mb: u64,
    /// KV cache per token, bytes: 2 × layers × KV heads × head dimension × 2, from its config.json.
    kv: u64,
    /// Longest answer to a request that sets no limit, tokens; a reasoning model needs more.
    max_tokens: u32,
    /// Whether it is proposed only on demand, because it leaves no room for anything else.
    large: bool,
}

/// Largest first: `propose` takes the first one that fits.
const KNOWN: [Known; 6] = [
    Known {
        name: "70b",
        repo: "mlx-community/Qwen2.5-72B-Instruct-4bit",
        aliases: &["72b", "large"],
        weights_mb: 40_900,
        kv: 327_680,
        max_tokens: 4096,
        large: true,
    },
    Known {
        name: "32b",
        repo: "mlx-community/DeepSeek-R1-Distill-Qwen-32B-4bit",
        aliases: &["reasoning"],
        weights_mb: 18_400,
        kv: 262_144,
        max_tokens: 8192,
        large: false,
    },
    Known {
        name: "14b",
        repo: "mlx-community/Qwen3-14B-4bit",
        aliases: &[],
        weights_mb: 8310,
        kv: 163_840,
        max_tokens: 8192,
        large: false,
    },
    Known {
        name: "8b",
        repo: "mlx-community/Qwen3-8B-4bit",
        aliases: &[],
        weights_mb: 4610,
        kv: 147_456,
        max_tokens: 8192,
        large: false,
    },
    Known {
        name: "4b",
        repo: "mlx-community/Qwen3-4B-4bit",
        aliases: &[],
        weights_mb: 2260,
        kv: 147_456,
        max_tokens: 4096,
        large: false,
    },
    Known {
        name: "1.7b",
        repo: "mlx-community/Qwen3-1.7B-4bit",
        aliases: &[],
        weights_mb: 970,
        kv: 114_688,
        max_tokens: 4096,
        large: false,
    },
];

/// Proposed contexts, tokens, and the smallest that makes an always-on model useful.
const CONTEXTS: [u32; 5] = [24_576, 16_384, 12_288, 8192, 4096];
const LEAST: u32 = 8192;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Proposal {
    pub model: &'static Known,
    pub always: bool,
    /// Longest prompt and answer together, in tokens.
    pub context: u32,
    /// What it needs with one such context in flight and one kept.
    pub memory: Bytes,
}

impl Known {
    pub(super) fn weights(&self) -> Bytes {
        Bytes::mb(self.weights_mb)
    }

    /// Weights, runtime and allocator (500 + 200 MB on Metal), MLX's buffers, and two contexts: in flight and kept.
    fn needs(&self, context: u32, cache: Bytes) -> Bytes {
        self.weights() + Bytes::mb(700) + cache + self.kept(context) + self.kept(context)
    }

    fn kept(&self, context: u32) -> Bytes {
        Bytes(self.kv * u64::from(context))
    }
}

/// Memory reserved for macOS and other programs.
fn reserve(memory: Bytes) -> Bytes {
    match memory.0 / Bytes::gb(1).0 {
        0..6 => Bytes::gb(2),
        6..12 => Bytes::gb(4),
        12..24 => Bytes::gb(5),
        24..48 => Bytes::gb(6),
        48..80 => Bytes::gb(8),
        _ => Bytes::gb(10),
    }
}

/// Limit of MLX's buffer cache; small where the default would take as much as a model.
fn cache(memory: Bytes) -> Bytes {
    if memory < Bytes::gb(24) { Bytes::mb(256) } else { Bytes::gb(1) }
}

/// Chooses one always-on model and, if there is room, one that is started by hand. Together they fit into what the
/// reserve leaves and into 75 % of memory, the smallest default of what macOS lets the GPU hold.
pub(super) fn propose(memory: Bytes) -> Vec<Proposal> {
    let room = memory.saturating_sub(reserve(memory)).min(memory.scale(0.75));
    let cache = cache(memory);
    let fits = |model: &'static Known, always, contexts: &[u32], room: Bytes| {
        let sizes = contexts.iter().map(|context| (*context, model.needs(*context, cache)));
        let fitting = sizes.filter(|(_, needs)| *needs <= room);
        fitting
            .map(|(context, memory)| Proposal { model, always, context, memory })
            .max_by_key(|proposal| proposal.context)
    };
    let enough: Vec<u32> = CONTEXTS.into_iter().filter(|context| *context >= LEAST).collect();
    let Some(main) =
        KNOWN.iter().filter(|model| !model.large).find_map(|model| fits(model, true, &enough, room))
    else {
        return Vec::new();
    };
    // A long context is cut for a larger second model, but not below `LEAST`.
    let less: Vec<u32> = CONTEXTS.into_iter().filter(|context| *context <= 12_288).collect();
    for other in KNOWN.iter().filter(|other| **other != *main.model) {
        let larger = other.weights_mb > main.model.weights_mb;
        let contexts =
            enough.iter().filter(|context| **context == main.context || larger && **context < main.context);
        for context in contexts {
            let Some(main) = fits(main.model, true, &[*context], room) else { continue };
            if let Some(beside) = fits(other, false, &less, room.saturating_sub(main.memory)) {
                return vec![main, beside];
            }
        }
    }
    vec![main]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Model name, whether it is always on, context in tokens.
    fn proposed(gb: u64) -> Vec<(&'static str, bool, u32)> {
        let all = propose(Bytes::gb(gb));
        all.iter().map(|one| (one.model.name, one.always, one.context)).collect()
    }

    #[test]
    fn each_size_of_machine_gets_what_fits() {
        assert_eq!(proposed(8), [("1.7b", true, 8192)]);
        assert_eq!(proposed(16), [("8b", true, 16_384)]);
        assert_eq!(proposed(32), [("14b", true, 24_576), ("4b", false, 4096)]);
        assert_eq!(proposed(64), [("32b", true, 24_576), ("14b", false, 12_288)]);
        assert_eq!(proposed(96), [("32b", true, 12_288), ("70b", false, 4096)]);
        assert_eq!(proposed(128), [("32b", true, 24_576), ("70b", false, 12_288)], "as config/models.toml");
        assert_eq!(proposed(4), []);
    }

    #[test]
    fn what_is_proposed_fits_together_and_more_memory_never_brings_less() {
        let mut before = Bytes::ZERO;
        for gb in 6..=512 {
            let (total, all) = (Bytes::gb(gb), propose(Bytes::gb(gb)));
            let taken: Bytes = all.iter().map(|one| one.memory).sum();
            assert!(taken + reserve(total) <= total && taken <= total.scale(0.75), "{gb} GB: {all:?}");
            let main = all.first().map_or(Bytes::ZERO, |one| one.model.weights());
            assert!(main >= before, "{gb} GB: {all:?}");
            before = main;
        }
    }
}
