//! Median and spread. Pure.

use serde::Serialize;

/// Several measurements of the same thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Stats {
    /// Half of them are above, half below.
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub count: usize,
}

impl Stats {
    /// `None` if there is no finite measurement.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: median_of(&sorted), min, max, count: sorted.len() })
    }

    /// Half the distance between the extremes, as a share of the median; 0 if the median is 0.
    pub(crate) fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / 2.0 / self.median.abs() }
    }
}

/// The median of sorted values, at least one.
fn median_of(sorted: &[f64]) -> f64 {
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_non_finite_values_do_not_count() {
        let stats = Stats::of(&[3.0, 1.0, f64::NAN, 2.0, f64::INFINITY]).unwrap();
        assert_eq!((stats.median, stats.min, stats.max, stats.count), (2.0, 1.0, 3.0, 3));
        assert_eq!(stats.spread(), 0.5);
        assert_eq!(Stats::of(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Stats::of(&[]), None);
        assert_eq!(Stats::of(&[f64::NAN]), None);
    }
}
