//! The measurement itself: which requests, in which order, and what their times mean.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;

use super::client::{AskError, Sample, Target, rate};
use super::stats::Stats;
use crate::speed;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Prompt lengths in tokens, approximate, because only the server can count.
    pub prompts: Vec<u32>,
    /// Length of an answer, in tokens.
    pub tokens: u32,
    /// How often each measurement is repeated.
    pub repeats: u32,
    /// Numbers of concurrent streams to measure.
    pub streams: Vec<u32>,
}

impl Plan {
    /// Drops what the model's context and the gate's `in_flight` do not allow.
    pub(crate) fn within(mut self, context: Option<u32>, in_flight: u32) -> Self {
        // The length is an estimate; the prompt may turn out a quarter longer.
        let fits = |prompt: u32| context.is_none_or(|context| prompt.saturating_mul(5) / 4 < context);
        self.prompts.retain(|prompt| fits(*prompt));
        self.streams.retain(|streams| *streams <= in_flight);
        if let Some(context) = context {
            self.tokens = self.tokens.min(context.saturating_sub(WARM_UP * 2).max(1));
        }
        self
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Prefill {
    pub prompt_tokens: u64,
    /// Prompt tokens ÷ time to first token.
    pub tokens_per_second: Stats,
    pub ttft_ms: Stats,
}

/// The result for a number of concurrent streams.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Decode {
    pub streams: u32,
    /// All of them together, from the very first token to the very last.
    pub tokens_per_second: Stats,
    /// Tokens per second of each stream.
    pub each: Stats,
    pub ttft_ms: Stats,
}

/// A prompt that the server has seen before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CacheHit {
    pub prompt_tokens: u64,
    /// How many of those the server had cached.
    pub cached_tokens: u64,
    /// Time to first token without the cache, milliseconds.
    pub cold_ms: f64,
    pub hit_ms: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Measured {
    /// In order of length, shortest first.
    pub prefill: Vec<Prefill>,
    pub decode: Vec<Decode>,
    pub cache: Option<CacheHit>,
    /// Shortest and longest answer of the decode measurements, tokens.
    pub answers: Option<(u64, u64)>,
}

impl Measured {
    pub(crate) fn one_stream(&self) -> Option<&Decode> {
        self.decode.iter().find(|decode| decode.streams == 1)
    }

    /// The number of streams with the most tokens per second.
    pub(crate) fn most(&self) -> Option<&Decode> {
        self.decode.iter().max_by(|a, b| a.tokens_per_second.median.total_cmp(&b.tokens_per_second.median))
    }
}

/// Length in tokens of prompts that are only there to be continued.
const WARM_UP: u32 = 32;

/// Measures. `tell` is called with what comes next.
///
/// # Errors
/// Fails on the first request that is not answered, because a result with gaps would be misleading.
pub(crate) async fn measure(
    target: &Target,
    plan: &Plan,
    mut tell: impl FnMut(&str),
) -> Result<Measured, AskError> {
    tell("warm-up");
    let mut prompts = Prompts::new();
    let first = target.ask(&prompts.next(WARM_UP), 8).await?;
    prompts.learn(WARM_UP, first.prompt_tokens);
    let mut measured = Measured::default();
    for &length in &plan.prompts {
        tell(&format!("prompts of about {length} tokens"));
        // The first one of a length makes the server allocate, and shows how long it really is.
        let sample = target.ask(&prompts.next(length), 1).await?;
        prompts.learn(length, sample.prompt_tokens);
        let mut samples = Vec::new();
        for _ in 0..repeats(plan.repeats, sample.ttft) {
            samples.push(target.ask(&prompts.next(length), 1).await?);
        }
        measured.prefill.extend(prefill(&samples));
    }
    for &streams in &plan.streams {
        tell(&format!(
            "{streams} {} of {} tokens",
            if streams == 1 { "stream" } else { "streams at once" },
            plan.tokens
        ));
        let mut rounds = Vec::new();
        // One more round than is counted: the first batch of a size compiles and allocates.
        for round in 0..=plan.repeats {
            let asks: Vec<String> = (0..streams).map(|_| prompts.next(WARM_UP)).collect();
            let samples = try_join_all(asks.iter().map(|prompt| target.ask(prompt, plan.tokens))).await?;
            if round > 0 {
                rounds.push(samples);
            }
        }
        let counts = rounds.iter().flatten().map(|sample| sample.tokens);
        let (low, high) = measured.answers.unwrap_or((u64::MAX, 0));
        measured.answers =
            Some((counts.clone().min().unwrap_or(low).min(low), counts.max().unwrap_or(high).max(high)));
        measured.decode.extend(decode(streams, &rounds));
    }
    if let Some(&longest) = plan.prompts.last() {
        tell("the same prompt again");
        let prompt = prompts.next(longest);
        let cold = target.ask(&prompt, 1).await?;
        let hit = target.ask(&prompt, 1).await?;
        measured.cache = Some(CacheHit {
            prompt_tokens: hit.prompt_tokens,
            cached_tokens: hit.cached_tokens,
            cold_ms: millis(cold.ttft),
            hit_ms: millis(hit.ttft),
        });
    }
    Ok(measured)
}

/// How often to measure what takes `once`: `wanted` times; less often if it takes very long, and more often if it takes
/// milliseconds, because the median of a few such times shows what else the machine was doing.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
fn repeats(wanted: u32, once: Duration) -> u32 {
    const ENOUGH: f64 = 30.0;
    const LEAST: f64 = 1.0;
    const MOST: u32 = 50;
    let fits = |seconds: f64| (seconds / once.as_secs_f64().max(0.001)) as u32;
    fits(ENOUGH).clamp(1, wanted.max(1)).max(fits(LEAST).min(MOST))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn prefill(samples: &[Sample]) -> Option<Prefill> {
    let rates: Vec<f64> =
        samples.iter().filter_map(|sample| rate(sample.prompt_tokens, sample.ttft)).collect();
    let times: Vec<f64> = samples.iter().map(|sample| millis(sample.ttft)).collect();
    Some(Prefill {
        prompt_tokens: samples.iter().map(|sample| sample.prompt_tokens).max()?,
        tokens_per_second: Stats::of(&rates)?,
        ttft_ms: Stats::of(&times)?,
    })
}

fn decode(streams: u32, rounds: &[Vec<Sample>]) -> Option<Decode> {
    let together = |samples: &Vec<Sample>| {
        let first = samples.iter().map(|sample| sample.first).min()?;
        let last = samples.iter().map(|sample| sample.last).max()?;
        let tokens = samples.iter().map(|sample| sample.tokens.saturating_sub(1)).sum();
        speed::per_second(tokens, last.duration_since(first))
    };
    let all: Vec<f64> = rounds.iter().filter_map(together).collect();
    let each: Vec<f64> = rounds.iter().flatten().filter_map(Sample::rate).collect();
    let times: Vec<f64> = rounds.iter().flatten().map(|sample| millis(sample.ttft)).collect();
    Some(Decode {
        streams,
        tokens_per_second: Stats::of(&all)?,
        each: Stats::of(&each)?,
        ttft_ms: Stats::of(&times)?,
    })
}

/// Prompts of a given length that no cache has seen: each begins with a number of its own.
struct Prompts {
    count: u64,
    /// Differs between runs, so that a cache that outlives one does not help the next.
    run: u32,
    words_per_token: f64,
}

impl Prompts {
    fn new() -> Self {
        Self { count: 0, run: getrandom::u32().unwrap_or(std::process::id()), words_per_token: 0.7 }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    fn next(&mut self, tokens: u32) -> String {
        const WORDS: [&str; 12] = [
            "river", "seven", "cloud", "paper", "north", "light", "stone", "green", "music", "table",
            "winter", "house",
        ];
        self.count += 1;
        // Multiplicative hashing modulo 2³² (Knuth, The Art of Computer Programming, 6.4) spreads neighbouring numbers.
        let mut state = self.run.wrapping_add((self.count as u32).wrapping_mul(2_654_435_761));
        let mut text = format!("{state:08x}");
        for _ in 0..(f64::from(tokens) * self.words_per_token) as u64 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let _ = write!(text, " {}", WORDS[(state >> 16) as usize % WORDS.len()]);
        }
        text
    }

    /// Corrects the estimate: a prompt meant to have `wanted` tokens had `counted`.
    #[expect(clippy::cast_precision_loss, reason = "no prompt has 2⁵³ tokens")]
    fn learn(&mut self, wanted: u32, counted: u64) {
        if counted > 0 {
            self.words_per_token =
                (self.words_per_token * f64::from(wanted) / counted as f64).clamp(0.01, 2.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sample(start: Instant, first: u64, last: u64, tokens: u64) -> Sample {
        let at = |ms| start + Duration::from_millis(ms);
        Sample {
            prompt_tokens: 100,
            cached_tokens: 0,
            tokens,
            first: at(first),
            last: at(last),
            ttft: Duration::from_millis(first),
        }
    }

    #[test]
    fn several_streams_count_from_the_very_first_token_to_the_very_last() {
        let start = Instant::now();
        let round = vec![sample(start, 100, 1100, 101), sample(start, 600, 2100, 101)];
        let decode = decode(2, &[round]).unwrap();
        assert_eq!(decode.tokens_per_second.median, 100.0, "200 tokens in 2 s");
        assert_eq!((decode.each.max, decode.ttft_ms.median), (100.0, 350.0));
    }

    #[test]
    fn short_prompts_are_measured_more_often_and_long_ones_less_often() {
        let times = |millis| repeats(5, Duration::from_millis(millis));
        assert_eq!((times(0), times(10), times(100), times(300)), (50, 50, 10, 5));
        assert_eq!((times(6_000), times(10_000), times(100_000)), (5, 3, 1));
    }

    #[test]
    fn prefill_is_prompt_tokens_over_the_time_to_the_first() {
        let start = Instant::now();
        let prefill =
            prefill(&[sample(start, 200, 200, 1), sample(start, 50, 50, 1), sample(start, 100, 100, 1)])
                .unwrap();
        assert_eq!((prefill.tokens_per_second.median, prefill.ttft_ms.median), (1000.0, 100.0));
    }

    #[test]
    fn prompts_differ_from_their_first_word_on_and_their_length_is_learned() {
        let mut prompts = Prompts::new();
        let (a, b) = (prompts.next(100), prompts.next(100));
        assert_ne!(a.split(' ').next(), b.split(' ').next());
        assert_eq!(a.split(' ').count(), 71);
        prompts.learn(100, 200);
        assert_eq!(prompts.next(100).split(' ').count(), 36);
    }

    #[test]
    fn what_does_not_fit_is_not_tried() {
        let plan = Plan { prompts: vec![128, 4096], tokens: 256, repeats: 3, streams: vec![1, 2, 4, 8] };
        let plan = plan.within(Some(300), 4);
        assert_eq!((plan.prompts, plan.streams, plan.tokens), (vec![128], vec![1, 2, 4], 236));
    }
}
