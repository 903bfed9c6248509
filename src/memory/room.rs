//! The memory that kept prompts and the working set of a prefill share.
//!
//! Reserving both in full would count memory that is never used at once: kept prompts matter between requests, the
//! working set during one. So only the larger is reserved, and the launcher enforces it: before it processes a prompt,
//! it drops as many kept prompts as the smallest steps need, and makes steps only as large as the rest allows. The
//! launcher gets this table, so that the cost of a step is computed in one place.

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::estimate::{ModelFiles, prefill, sequence, step};
use super::platform::Platform;

/// Prompt lengths in a table. The launcher uses the next longer one, so too few of them would leave room unused.
const ROWS: u32 = 32;
/// Distance between the steps of a table from 512 on, tokens.
const APART: u32 = 128;

/// The table that the launcher gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes of kept prompts, sequences in flight and working set together.
    pub bytes: u64,
    pub concurrency: u32,
    /// The step that always fits, tokens.
    pub least: u32,
    /// Step sizes in tokens, rising: the columns of the table. Those below `least` serve for the rest of a prompt.
    pub steps: Vec<u32>,
    /// By prompt length, rising; the last row is the whole context.
    pub rows: Vec<Row>,
}

/// What the steps of a prompt take that end at `tokens` or before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Length of the prompt, tokens.
    pub tokens: u32,
    /// Sequences in flight plus working set, one entry per step size.
    pub bytes: Vec<u64>,
}

/// The table for a run under `bounds`. `None`: nothing is shared, or the files are not downloaded.
pub(crate) fn room(
    files: &ModelFiles,
    draft: Option<&ModelFiles>,
    bounds: &Bounds,
    platform: Platform,
) -> Option<Room> {
    let ModelFiles::Read(files) = files else { return None };
    if !bounds.shared {
        return None;
    }
    let whole = sequence(files, draft, bounds, bounds.context).0;
    let kept = bounds.kv_limit.0.min(whole.saturating_mul(u64::from(bounds.prompt_caches)));
    let others = whole.saturating_mul(u64::from(bounds.concurrency.saturating_sub(1)));
    let least = bounds.prefill_step.min(bounds.prefill_most);
    let mut steps: Vec<u32> = [64, 128, 256]
        .into_iter()
        .chain((512..bounds.prefill_most).step_by(APART as usize))
        .chain([least, bounds.prefill_most])
        .filter(|step| *step <= bounds.prefill_most)
        .collect();
    steps.sort_unstable();
    steps.dedup();
    let row = |number: u32| {
        let tokens = u64::from(bounds.context) * u64::from(number) / u64::from(ROWS);
        let tokens = u32::try_from(tokens).unwrap_or(bounds.context).max(1);
        // Prompts processed at the same time may be longer.
        let longest = if bounds.prompt_concurrency > 1 { bounds.context } else { tokens };
        let flight = others.saturating_add(sequence(files, draft, bounds, tokens).0);
        let bytes = steps
            .iter()
            .map(|tokens| flight.saturating_add(step(files, bounds, platform, *tokens, longest).0));
        Row { tokens, bytes: bytes.collect() }
    };
    Some(Room {
        bytes: others.saturating_add(whole).saturating_add(kept.max(prefill(files, bounds, platform).0)),
        concurrency: bounds.concurrency,
        least,
        rows: (1..=ROWS).map(row).collect(),
        steps,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::choose::bounds;
    use crate::memory::estimate::estimate;
    use crate::memory::figures::{RUNTIME, SLACK};
    use crate::memory::fixtures::{files_32b, files_72b, model};
    use crate::units::Bytes;

    fn table(files: &ModelFiles, memory: &str, platform: Platform) -> Room {
        let bounds = bounds(&model(memory, ""), files, None, platform).unwrap();
        room(files, None, &bounds, platform).unwrap()
    }

    /// The step that the launcher chooses at `tokens` tokens of a prompt while `kept` bytes are kept.
    fn chosen(room: &Room, tokens: u32, kept: u64) -> u32 {
        let row = room.rows.iter().find(|row| row.tokens >= tokens).unwrap();
        let fits = |(step, bytes): (&u32, &u64)| (*bytes + kept <= room.bytes).then_some(*step);
        room.steps.iter().zip(&row.bytes).filter_map(fits).max().unwrap_or(room.least).max(room.least)
    }

    #[test]
    fn on_a_mac_a_kept_conversation_of_16000_tokens_leaves_room_for_full_steps() {
        for files in [files_32b(), files_72b()] {
            let room = table(&files, "context = 24576", Platform::Metal);
            let ModelFiles::Read(read) = &files else { unreachable!() };
            let bounds = bounds(&model("context = 24576", ""), &files, None, Platform::Metal).unwrap();
            assert_eq!(chosen(&room, 16_000, sequence(read, None, &bounds, 16_000).0), 2048);
        }
    }

    #[test]
    fn where_a_prefill_is_expensive_the_step_shrinks_with_the_context() {
        let room = table(&files_32b(), "context = 16384", Platform::Cuda);
        let steps: Vec<u32> =
            [2_000, 4_000, 8_000, 12_000, 16_000].map(|tokens| chosen(&room, tokens, 0)).to_vec();
        assert!(steps.is_sorted_by(|a, b| a >= b), "{steps:?}");
        assert_eq!(steps, [2048, 1024, 768, 640, 512]);
    }

    /// Number of steps of a prompt while nothing else is kept.
    fn steps(room: &Room, prompt: u32) -> u32 {
        let (mut at, mut count) = (0, 0);
        while at < prompt {
            let fits = |step: &u32| chosen(room, at + step, 0) >= *step;
            at += room.steps.iter().copied().filter(fits).max().unwrap_or(room.least).max(room.least);
            count += 1;
        }
        count
    }

    #[test]
    fn a_first_turn_takes_hardly_more_steps_than_with_the_bare_server() {
        assert_eq!(16_000_u32.div_ceil(2048), 8, "with the bare server");
        for platform in [Platform::Metal, Platform::Cuda] {
            for context in ["context = 24576", "context = 32768"] {
                assert_eq!(
                    steps(&table(&files_32b(), context, platform), 16_000),
                    8,
                    "{platform:?}, {context}"
                );
            }
        }
    }

    #[test]
    fn a_cluster_shares_nothing_because_its_ranks_have_to_keep_the_same_prompts() {
        let bounds = bounds(&model("", ""), &files_32b(), None, Platform::Metal).unwrap();
        let apart = Bounds { shared: false, ..bounds };
        assert_eq!(room(&files_32b(), None, &apart, Platform::Metal), None);
    }

    proptest! {
        /// The table's bytes are the estimate's peak without weights, runtime and what the allocators keep.
        #[test]
        fn the_room_is_what_the_estimate_promises(context in 256_u32..100_000, concurrency in 1_u32..6, kv in 1_u64..20) {
            let memory = format!("context = {context}\nconcurrency = {concurrency}\nkv_limit = \"{kv}GB\"");
            for platform in [Platform::Metal, Platform::Cuda, Platform::Cpu] {
                let bounds = bounds(&model(&memory, ""), &files_32b(), None, platform).unwrap();
                let room = room(&files_32b(), None, &bounds, platform).unwrap();
                let estimate = estimate(&files_32b(), None, &bounds, platform, None).unwrap();
                let apart = ["weights", RUNTIME, "tokenizer", "MLX buffer cache", SLACK];
                let promised: Bytes = estimate.terms.iter()
                    .filter(|term| !apart.contains(&term.name.as_str())).map(|term| term.bytes).sum();
                prop_assert_eq!(room.bytes, promised.0);
                let last = room.rows.last().unwrap();
                prop_assert_eq!(last.tokens, context);
                let least = room.steps.iter().position(|step| *step == room.least).unwrap();
                prop_assert!(last.bytes[least] <= room.bytes, "the smallest step always has room");
                prop_assert!(room.rows.iter().all(|row| row.bytes.is_sorted()));
                prop_assert!(room.rows.is_sorted_by_key(|row| row.bytes[least]));
            }
        }
    }
}
