use proptest::prelude::*;

use super::*;
use crate::memory::fixtures::{self, files_32b, model};
use crate::memory::thumb;
use crate::memory::weights::Header;

fn of(memory: &str, server: &str) -> Result<Bounds, Problem> {
    bounds(&model(memory, server), &files_32b(), None, Platform::Metal)
}

#[test]
fn with_an_empty_registry_entry_everything_is_still_bounded() {
    let bounds = of("", "").unwrap();
    assert_eq!((bounds.context, bounds.concurrency), (registry::CONTEXT, registry::CONCURRENCY));
    let arguments = bounds.arguments().join(" ");
    assert_eq!(
        arguments,
        "--decode-concurrency 1 --prompt-concurrency 1 --prefill-step-size 512 --prompt-cache-size 10 \
         --prompt-cache-bytes 8589934592"
    );
}

#[test]
fn kept_caches_hold_one_whole_context() {
    for context in [16_384_u32, 32_768, 65_536] {
        let bounds = of(&format!("context = {context}"), "").unwrap();
        assert_eq!(bounds.kv_limit.0, (u64::from(context) * 262_144).max(KV_LIMIT.0));
    }
    assert_eq!(of("kv_limit = \"1GB\"", "").unwrap().kv_limit, Bytes::gb(1), "the owner's value is kept");
}

#[test]
fn no_more_is_decoded_at_once_than_memory_is_reserved_for() {
    let bounds = of("concurrency = 2", "decode_concurrency = 16\nprompt_concurrency = 8").unwrap();
    assert_eq!((bounds.concurrency, bounds.prompt_concurrency), (2, 2));
    assert_eq!(
        of("concurrency = 4", "kv_bits = 8").unwrap().concurrency,
        1,
        "quantised caches are not batched"
    );
}

#[test]
fn a_ceiling_shrinks_kept_caches_first_and_context_last() {
    let mild = of("ceiling = \"26GB\"\ncontext = 8192", "").unwrap();
    assert!(mild.kv_limit < KV_LIMIT && mild.cache_limit == CACHE_LIMIT, "{mild:?}");
    let hard = of("ceiling = \"24GB\"", "").unwrap();
    assert!(hard.context < registry::CONTEXT && hard.context >= SMALLEST_CONTEXT, "{hard:?}");
}

#[test]
fn a_ceiling_below_the_weights_or_the_configured_context_is_a_named_problem() {
    let below = of("ceiling = \"18GB\"", "").unwrap_err();
    assert!(matches!(below, Problem::CeilingBelowIdle { .. }), "{below}");
    let short = of("ceiling = \"24GB\"\ncontext = 32768", "").unwrap_err();
    let Problem::CeilingBelowPeak { fits, .. } = short else { panic!("{short}") };
    assert!(of(&format!("ceiling = \"24GB\"\ncontext = {fits}"), "").is_ok(), "the hint works");
}

#[test]
fn quantised_caches_are_refused_where_mlx_lm_would_fail_in_the_first_request() {
    let config = r#"{"model_type":"gemma3_text","hidden_size":64,"num_hidden_layers":6,"head_dim":16,"sliding_window":512,"sliding_window_pattern":6,
        "vocab_size":10,"num_attention_heads":4,"num_key_value_heads":1}"#;
    let shape = thumb::shape(config).unwrap();
    let files = ModelFiles::Read(Box::new(fixtures::of(shape, Header::default())));
    let problem = bounds(&model("", "kv_bits = 8"), &files, None, Platform::Metal).unwrap_err();
    assert!(problem.to_string().contains("sliding-window"), "{problem}");
}

proptest! {
    #[test]
    fn whatever_the_ceiling_the_peak_stays_below_it(gb in 1_u64..200, context in 0_u32..200_000, concurrency in 1_u32..20) {
        let context = if context == 0 { String::new() } else { format!("context = {context}") };
        let model = model(&format!("ceiling = \"{gb}GB\"\nconcurrency = {concurrency}\n{context}"), "");
        for platform in [Platform::Metal, Platform::Cuda, Platform::Cpu] {
            if let Ok(bounds) = bounds(&model, &files_32b(), None, platform) {
                let estimate = estimate(&files_32b(), None, &bounds, platform, None).unwrap();
                prop_assert!(estimate.peak <= Bytes::gb(gb), "{bounds:?}");
            }
        }
    }
}
