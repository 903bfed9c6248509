//! The limit that the memory bus sets: every token of one stream reads all weights once. Pure.

use serde::Serialize;

use super::chips::Chip;
use super::shape::Shape;

/// How fast memory is, and where that figure is from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Bandwidth {
    pub bytes_per_second: f64,
    /// The maker's data sheet, or the copy test.
    pub source: String,
    /// Whether the real limit is this or higher.
    pub lower_bound: bool,
}

impl Bandwidth {
    /// Of a chip in the table.
    pub(crate) fn of(chip: &Chip) -> Self {
        let source = format!("{}, {}", chip.name, chip.source);
        Self { bytes_per_second: chip.gigabytes * 1e9, source, lower_bound: false }
    }

    /// By the copy test, for a chip that is not in the table.
    pub(crate) fn measured(bytes_per_second: f64, chip: &str) -> Self {
        let source = format!("measured by copying memory with all CPU cores; no figure is known for {chip}");
        Self { bytes_per_second, source, lower_bound: true }
    }
}

/// The limit of a single stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Roofline {
    pub bandwidth: Bandwidth,
    /// Bytes that one token reads, at the start of a context.
    pub bytes_per_token: u64,
    /// Tokens per second, at the start of a context.
    pub tokens_per_second: f64,
}

impl Roofline {
    /// Bandwidth ÷ bytes. `None` if the weights are unknown or not all of them are read for each token.
    #[expect(clippy::cast_precision_loss, reason = "a rate does not need 53 bits")]
    pub(crate) fn new(bandwidth: Bandwidth, shape: &Shape) -> Option<Self> {
        let bytes = shape.weights.filter(|weights| weights.0 > 0 && !shape.sparse)?.0;
        let tokens_per_second = bandwidth.bytes_per_second / bytes as f64;
        Some(Self { bandwidth, bytes_per_token: bytes, tokens_per_second })
    }
}

/// How a target compares with the limit and with what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TargetVerdict {
    Met,
    /// One stream does not reach it, although the bus would allow it.
    Missed,
    /// One stream without a draft model cannot reach it: the bus does not allow it.
    Impossible,
}

/// Compares a target with the speed of one stream and its limit. A limit that is a lower bound rules nothing out.
pub(crate) fn judge(target: f64, measured: f64, roofline: Option<&Roofline>) -> TargetVerdict {
    let limit = roofline.filter(|roofline| !roofline.bandwidth.lower_bound);
    if measured >= target {
        TargetVerdict::Met
    } else if limit.is_some_and(|limit| target > limit.tokens_per_second) {
        TargetVerdict::Impossible
    } else {
        TargetVerdict::Missed
    }
}

#[cfg(test)]
mod tests {
    use super::super::chips;
    use super::*;
    use crate::units::Bytes;

    fn m4_max(weights: u64) -> Roofline {
        let chip = chips::find("Apple M4 Max", 16).unwrap();
        Roofline::new(Bandwidth::of(chip), &Shape { weights: Some(Bytes(weights)), ..Shape::default() })
            .unwrap()
    }

    #[test]
    fn an_m4_max_limits_the_32b_to_29_6_tokens_per_second_and_the_72b_to_13_3() {
        assert_eq!(format!("{:.1}", m4_max(18_431_289_344).tokens_per_second), "29.6");
        assert_eq!(format!("{:.1}", m4_max(40_900_313_088).tokens_per_second), "13.3");
    }

    #[test]
    fn a_target_above_the_limit_is_impossible_unless_it_was_met() {
        let limit = m4_max(18_431_289_344);
        assert_eq!(judge(30.0, 25.0, Some(&limit)), TargetVerdict::Impossible);
        assert_eq!(judge(30.0, 39.0, Some(&limit)), TargetVerdict::Met, "a draft model exceeds the limit");
        assert_eq!(judge(29.0, 25.0, Some(&limit)), TargetVerdict::Missed);
        assert_eq!(judge(30.0, 25.0, None), TargetVerdict::Missed);
        let measured = Roofline { bandwidth: Bandwidth::measured(1e9, "something"), ..limit };
        assert_eq!(
            judge(30.0, 25.0, Some(&measured)),
            TargetVerdict::Missed,
            "a lower bound rules nothing out"
        );
    }

    #[test]
    fn there_is_no_limit_if_the_bytes_per_token_are_unknown() {
        let bandwidth = Bandwidth::measured(1e9, "x");
        assert_eq!(Roofline::new(bandwidth.clone(), &Shape::default()), None);
        let sparse = Shape { weights: Some(Bytes(1)), sparse: true, ..Shape::default() };
        assert_eq!(Roofline::new(bandwidth, &sparse), None);
    }
}
