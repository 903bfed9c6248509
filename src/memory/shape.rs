//! What a model caches per token, and the bytes that follow from it for any context. A shape comes from mlx_lm itself
//! (the [profile](super::profile)) or from `config.json` by rules of thumb ([`super::thumb`]).

use std::num::NonZeroU64;

use super::cache::{Cache, Kind, Law, Quantized, Slot};

use crate::units::Bytes;

/// Most layers of a model; a config.json or profile with more is rejected.
pub(crate) const MOST_LAYERS: u64 = 4096;

/// The dimensions of a model that determine its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub family: String,
    /// Layers, with or without a cache.
    pub layers: NonZeroU64,
    /// Width of the residual stream; 0: the profile does not name it.
    pub hidden: u64,
    pub heads: u64,
    /// Width of a dense MLP, or of the experts that one token passes together.
    pub intermediate: u64,
    pub vocab: u64,
    /// Longest sequence that the model was trained for, tokens.
    pub context: Option<u32>,
    /// Bytes of an activation element, 2 or 4.
    pub activation: u64,
    pub caches: Vec<Cache>,
    /// Whether `--kv-bits` works, as far as is known.
    pub quantizes: bool,
    /// Whether the server processes several requests together.
    pub batches: bool,
}

impl Shape {
    /// Bytes of all caches of one sequence of `tokens` tokens, as they are allocated.
    pub fn kv(&self, tokens: u64, quantized: Option<Quantized>) -> Bytes {
        let of = |cache: &Cache| -> u64 {
            let how = cache.quantized(quantized);
            let each = cache.slots.iter().map(|slot| slot.bytes_at(tokens, how)).fold(0, u64::saturating_add);
            each.saturating_mul(cache.count)
        };
        self.caches.iter().map(|cache| Bytes(of(cache))).sum()
    }

    /// Bytes that one more token adds while all caches still grow.
    pub fn per_token(&self, quantized: Option<Quantized>) -> Bytes {
        let of = |cache: &Cache| -> u64 {
            let each = cache.slots.iter().map(|slot| match (slot.law, cache.quantized(quantized)) {
                (Law::Quotient { step }, _) => slot.bytes.div_ceil(step.get()),
                (law, _) if !law.is_per_token() => 0,
                (_, Some(how)) => slot.quantized(how),
                (_, None) => slot.bytes,
            });
            each.fold(0, u64::saturating_add).saturating_mul(cache.count)
        };
        self.caches.iter().map(|cache| Bytes(of(cache))).sum()
    }

    /// The arrays whose size depends on the sequence.
    fn growing(&self) -> impl Iterator<Item = &Slot> {
        self.slots().filter(|slot| slot.law != Law::Fixed)
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.caches.iter().flat_map(|cache| &cache.slots)
    }

    /// The width of a query head, on which the choice of a fused attention kernel depends; `None`: no attention, or
    /// several widths.
    pub fn query_width(&self) -> Option<u64> {
        let mut widths = self.growing().map(|slot| slot.width);
        let first = widths.next()?;
        widths.all(|width| width == first).then_some(first)
    }

    /// Bytes of the largest float32 state of a recurrent layer; 0: there is none.
    pub fn largest_state(&self) -> u64 {
        let wide = |cache: &Cache| {
            let states = cache.slots.iter().filter(|slot| slot.law == Law::Fixed && slot.element == 4);
            states.map(|slot| slot.bytes).fold(0, u64::saturating_add)
        };
        self.caches.iter().map(wide).max().unwrap_or(0)
    }

    /// Number of layers that keep a state of fixed size.
    pub fn recurrent_layers(&self) -> u64 {
        let keeps = |cache: &&Cache| cache.slots.iter().any(|slot| slot.law == Law::Fixed);
        self.caches.iter().filter(keeps).map(|cache| cache.count).sum()
    }

    /// Bytes of the sliding caches of a sequence after a prompt step of `step` tokens: the whole step is appended to the
    /// window less one (`_update_concat` of `RotatingKVCache` and `BatchRotatingKVCache` in mlx_lm/models/cache.py) and
    /// cut off by the next step. With a step of one token, the window.
    pub fn sliding(&self, tokens: u64, step: u64) -> Bytes {
        let rows = |window: u64| window.saturating_sub(1).saturating_add(step).min(tokens);
        let of = |slot: &Slot| match slot.law {
            Law::Rotating { window, .. } => slot.bytes.saturating_mul(rows(window)),
            _ => 0,
        };
        let each = |cache: &Cache| cache.slots.iter().map(of).fold(0, u64::saturating_add);
        self.caches.iter().map(|cache| Bytes(each(cache).saturating_mul(cache.count))).sum()
    }

    /// The most positions that a token attends to in a sequence of `tokens` tokens while `step` tokens are processed.
    pub fn attended(&self, tokens: u64, step: u64) -> u64 {
        let of = |slot: &Slot| match slot.law {
            Law::Quotient { step: group } => tokens / group,
            law => law.window().map_or(tokens, |window| window.saturating_add(step).min(tokens)),
        };
        self.growing().map(of).max().unwrap_or(0)
    }

    /// The kind of caches that mlx_lm cannot quantise; with them `--kv-bits` makes the first request fail.
    pub fn unquantizable(&self) -> Option<&'static str> {
        let has = |kind| self.caches.iter().any(|cache| cache.kind == kind);
        (!self.quantizes).then(|| match () {
            () if has(Kind::Rotating) => "sliding-window",
            () if has(Kind::Compressed) => "latent (MLA)",
            () => "key and value",
        })
    }

    /// The same shape with activations of `activation` bytes per element.
    pub fn computed_in(mut self, activation: u64) -> Self {
        for slot in self.caches.iter_mut().flat_map(|cache| &mut cache.slots) {
            if slot.element == self.activation && slot.element > 0 {
                slot.bytes = (slot.bytes / slot.element).saturating_mul(activation);
                slot.element = activation;
            }
        }
        Self { activation, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cache::CACHE_STEP;
    use super::*;

    fn shape(caches: Vec<Cache>) -> Shape {
        Shape {
            family: "x".to_owned(),
            layers: NonZeroU64::MIN,
            hidden: 64,
            heads: 4,
            intermediate: 64,
            vocab: 64,
            context: None,
            activation: 2,
            caches,
            quantizes: true,
            batches: true,
        }
    }

    /// The 64 layers of a 32B model.
    fn attention() -> Shape {
        let slot = || Slot::of(8, 128, 2, Law::Stepped { step: CACHE_STEP });
        shape(vec![Cache { kind: Kind::Full, nested: false, count: 64, slots: vec![slot(), slot()] }])
    }

    #[test]
    fn a_32b_model_keeps_262144_bytes_per_token() {
        let shape = attention();
        assert_eq!(shape.per_token(None), Bytes(262_144));
        assert_eq!(shape.kv(30_013, None), Bytes(262_144 * 30_208), "in steps of 256 tokens");
        assert_eq!(shape.computed_in(4).kv(30_013, None), Bytes(2 * 262_144 * 30_208));
    }

    #[test]
    fn a_sliding_cache_holds_a_step_beyond_its_window_while_a_prompt_is_processed() {
        let step = CACHE_STEP;
        let cache = |kind, law| Cache {
            kind,
            nested: false,
            count: 1,
            slots: vec![Slot::of(4, 128, 2, law), Slot::of(4, 128, 2, law)],
        };
        let sliding = |window| cache(Kind::Rotating, Law::Rotating { step, window });
        let shape = shape(vec![cache(Kind::Full, Law::Stepped { step }), sliding(512), sliding(4096)]);
        let rows = |tokens, step| shape.sliding(tokens, step).0 / (2 * 4 * 128 * 2);
        assert_eq!(rows(400, 400), 400 + 400);
        assert_eq!([rows(1200, 1), rows(1200, 512), rows(1200, 2048)], [1712, 2223, 2400]);
        assert_eq!(rows(30_000, 512), 1023 + 4607);
    }

    #[test]
    fn quantised_caches_are_smaller_but_never_smaller_than_before_the_switch() {
        let shape = attention();
        let at = |start| shape.kv(30_000, Some((4, 64, start)));
        assert!(at(0) < Bytes(shape.kv(30_000, None).0 / 3));
        assert!(at(25_000) >= shape.kv(25_000, None));
        assert_eq!(at(40_000), shape.kv(30_000, None), "the switch is not reached");
        let mut nested = shape.clone();
        nested.caches[0].nested = true;
        assert_eq!(nested.kv(30_000, Some((4, 64, 0))), shape.kv(30_000, None), "nested caches are skipped");
    }

    proptest! {
        #[test]
        fn no_law_overflows_or_shrinks_with_more_tokens(
            step in 1_u64.., window: u64, tokens: u64, kind in 0..5, numbers: [u64; 6],
        ) {
            let step = NonZeroU64::new(step).unwrap();
            let law = [
                Law::Stepped { step }, Law::Rotating { step, window }, Law::Window { window }, Law::Quotient { step }, Law::Fixed,
            ][usize::try_from(kind).unwrap()];
            prop_assert!(law.rows(tokens) <= law.rows(tokens.saturating_add(1)));
            let chunked = Law::Chunked { step, window };
            let [heads, width, count, bits, group, start] = numbers;
            let slots = vec![Slot::of(heads, width, 2, law), Slot::of(heads, width, 4, chunked)];
            let shape = shape(vec![Cache { kind: Kind::Full, nested: false, count, slots }]);
            let how = Some((bits, group, start));
            let _ = (shape.kv(tokens, how), shape.per_token(how), shape.attended(tokens, start));
        }
    }
}
