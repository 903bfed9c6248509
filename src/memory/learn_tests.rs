use proptest::prelude::*;

use super::*;
use crate::memory::choose::bounds;
use crate::memory::estimate::{ModelFiles, estimate};
use crate::memory::fixtures::{files_32b, model};
use crate::memory::platform::Platform;

fn learned(idle: u64, resident: u64, peak: u64) -> Learned {
    Learned { idle: Some(Bytes(idle)), resident: Some(Bytes(resident)), peak: Some(Bytes(peak)) }
}

fn estimated(files: &ModelFiles, learned: Option<&Learned>) -> Estimate {
    let bounds = bounds(&model("", ""), files, None, Platform::Metal).unwrap();
    estimate(files, None, &bounds, Platform::Metal, learned).unwrap()
}

#[test]
fn a_measured_footprint_replaces_the_fitted_terms_and_both_are_shown() {
    let seen = learned(18_600_000_000, 36_000_000_000, 45_000_000_000);
    let estimate = estimated(&files_32b(), Some(&seen));
    assert_eq!((estimate.idle, estimate.peak), (Bytes(18_600_000_000), Bytes(45_000_000_000)));
    let runtime = estimate.terms.iter().find(|term| term.name == RUNTIME).unwrap();
    assert_eq!((runtime.origin, runtime.before), (Origin::Learned, Some(Platform::Metal.runtime())));
}

#[test]
fn a_figure_not_reached_yet_does_not_lower_the_reservation() {
    let plain = estimated(&files_32b(), None);
    let less = Learned { resident: Some(Bytes::gb(19)), peak: Some(Bytes::gb(20)), ..Learned::default() };
    assert_eq!(estimated(&files_32b(), Some(&less)), plain);
    let more = Learned { peak: Some(plain.peak + Bytes::gb(9)), ..Learned::default() };
    assert_eq!(estimated(&files_32b(), Some(&more)).peak, plain.peak + Bytes::gb(9));
}

#[test]
fn the_store_survives_a_round_trip_and_keeps_the_highest() {
    let mut store = Store::default();
    let key = key("org/m", "mlx 0.32.4", "abc");
    store.observe(&key, learned(1, 5, 9));
    store.observe(&key, learned(3, 4, 2));
    let text = serde_json::to_string(&store).unwrap();
    let read: Store = serde_json::from_str(&text).unwrap();
    assert_eq!(read.get(&key), Some(&learned(3, 5, 9)));
    let newer = Store { schema: SCHEMA + 1, ..read };
    assert_eq!(newer.get(&key), None, "of another schema version");
}

proptest! {
    #[test]
    fn the_order_of_merging_does_not_matter(a: [u64; 3], b: [u64; 3]) {
        let a = learned(a[0], a[1], a[2]);
        let b = learned(b[0], b[1], b[2]);
        prop_assert_eq!(a.merge(b), b.merge(a));
        prop_assert_eq!(a.merge(a), a);
    }

    #[test]
    fn whatever_was_measured_the_figures_still_rise(idle: u64, resident: u64, peak: u64) {
        let estimate = estimated(&files_32b(), Some(&learned(idle, resident, peak)));
        prop_assert!(estimate.idle <= estimate.resident && estimate.resident <= estimate.peak);
    }
}
