use super::*;
use crate::memory::GpuLimit;
use crate::memory::choose::bounds;
use crate::memory::fixtures::{files_32b, files_72b, model};
use crate::registry::{Model, Registry};

fn at(files: &ModelFiles, context: u32, platform: Platform) -> Estimate {
    let model = model(&format!("context = {context}"), "");
    let bounds = bounds(&model, files, None, platform).unwrap();
    estimate(files, None, &bounds, platform, None).unwrap()
}

fn mib(bytes: Bytes) -> f64 {
    bytes.0 as f64 / f64::from(1 << 20)
}

/// Measured on one H100 with the launcher, 4 GB of kept caches and 1 GB of buffer cache.
#[test]
fn what_a_card_holds_between_requests_is_near_what_was_measured() {
    let within = |estimated: Bytes, measured: f64| {
        let share = mib(estimated) / measured;
        assert!((share - 1.0).abs() < 0.05, "{:.0} MiB estimated, {measured:.0} measured", mib(estimated));
    };
    let long = at(&files_32b(), 30_013 + 128, Platform::Cuda);
    within(long.idle, 18_657.0);
    // At that time the last batch was kept twice; the 7,504 MiB of the second copy no longer exist.
    within(long.resident, 35_927.0 - 7_504.0);
    let large = at(&files_72b(), 8_012 + 128, Platform::Cuda);
    within(large.idle, 39_166.0 + 950.0);
}

/// MLX's peak above weights and caches, measured on one H200 with masks that are converted once
/// (`src/backend/card.py`): tokens of the step, the context that it ends at, GB.
#[test]
fn a_step_on_a_card_takes_no_more_than_is_estimated() {
    let of_32b = [
        (2048, 2048, 10.2),
        (2048, 4096, 10.5),
        (2048, 32_768, 9.9),
        (1024, 2048, 7.6),
        (1024, 16_384, 8.9),
        (512, 2048, 3.9),
        (512, 32_768, 8.5),
        (256, 2048, 2.1),
        (256, 32_768, 7.2),
    ];
    let of_72b =
        [(2048, 2048, 10.1), (1000, 2048, 7.5), (1024, 8192, 7.7), (1536, 16_384, 9.1), (512, 32_768, 7.3)];
    for (files, measured) in [(files_32b(), &of_32b[..]), (files_72b(), &of_72b)] {
        let ModelFiles::Read(files) = files else { panic!("the files are read") };
        for &(tokens, context, gb) in measured {
            let step = Step { tokens, context, sequences: 1 };
            let estimated = working::prefill(&files.shape, files.weights.bytes, step, None, Platform::Cuda);
            let share = estimated.0 as f64 / (gb * 1e9);
            assert!(
                (1.0..1.55).contains(&share),
                "{tokens} tokens that end at {context}: {share:.2} of {gb} GB"
            );
        }
    }
}

/// The estimate for each model of the shipped registry on a Mac.
fn shipped() -> Vec<Estimate> {
    let text = include_str!("../../config/models.toml");
    let registry = Registry::parse(std::path::Path::new("/models.toml"), text).unwrap();
    let of = |(model, files): (&Model, ModelFiles)| {
        let bounds = bounds(model, &files, None, Platform::Metal).unwrap();
        assert!(bounds.kv_limit >= files_kv(&files, &bounds), "{} keeps one whole conversation", model.name);
        estimate(&files, None, &bounds, Platform::Metal, None).unwrap()
    };
    registry.models.iter().zip([files_32b(), files_72b()]).map(of).collect()
}

fn files_kv(files: &ModelFiles, bounds: &Bounds) -> Bytes {
    let ModelFiles::Read(read) = files else { panic!("the files are read") };
    sequence(read, None, bounds, bounds.context)
}

#[test]
fn both_models_of_the_deployment_and_the_game_fit_the_smallest_gpu_limit_of_a_128_gb_mac() {
    let limit = GpuLimit::assumed(Platform::Metal, Bytes::gb(128)).unwrap();
    let models: Bytes = shipped().iter().map(Estimate::reserve).sum();
    let game = Bytes::gb(10);
    assert_eq!(limit.bytes, Bytes::gb(96));
    assert!(models + game <= limit.bytes, "{models} for the models");
    assert!(models + game + Bytes::gb(10) <= Bytes::gb(128), "together with macOS");
}

#[test]
fn keeping_conversations_does_not_enlarge_the_reservation() {
    let most = [Bytes::mb(37_400), Bytes::mb(64_200)];
    for (estimate, most) in shipped().iter().zip(most) {
        assert!(estimate.reserve() <= most, "{}", estimate.reserve());
    }
    for (files, most) in [files_32b(), files_72b()].iter().zip(most) {
        assert!(at(files, 32_768, Platform::Metal).reserve() <= most, "with default values as well");
    }
}

#[test]
fn figures_rise_and_their_terms_add_up() {
    for platform in [Platform::Metal, Platform::Cuda, Platform::Cpu] {
        for context in [1024, 8192, 32_768, 131_072] {
            let estimate = at(&files_32b(), context, platform);
            assert!(estimate.idle <= estimate.resident && estimate.resident <= estimate.peak, "{estimate:?}");
            for figure in [Figure::Idle, Figure::Resident, Figure::Peak] {
                let sum: u64 =
                    estimate.terms.iter().filter(|t| t.figures.contains(&figure)).map(|t| t.bytes.0).sum();
                assert_eq!(sum, estimate.figure(figure).0);
            }
        }
    }
}

#[test]
fn a_model_that_is_not_downloaded_counts_as_declared_and_an_unknown_one_has_no_estimate() {
    let model = model("", "");
    let declared = ModelFiles::Declared(Bytes::gb(20));
    let bounds = bounds(&model, &declared, None, Platform::Metal).unwrap();
    let estimated = estimate(&declared, None, &bounds, Platform::Metal, None).unwrap();
    assert_eq!((estimated.reserve(), estimated.declared), (Bytes::gb(20), true));
    assert_eq!(estimate(&ModelFiles::Unknown, None, &bounds, Platform::Metal, None), None);
    let draft = Some(ModelFiles::Unknown);
    assert_eq!(estimate(&files_32b(), draft.as_ref(), &bounds, Platform::Metal, None), None);
}

#[test]
fn a_draft_model_adds_its_weights_and_caches() {
    let model = model("context = 8192", "draft_model = \"org/draft\"");
    let draft = files_72b();
    let with = |draft: Option<&ModelFiles>| {
        let bounds = bounds(&model, &files_32b(), draft, Platform::Metal).unwrap();
        estimate(&files_32b(), draft, &bounds, Platform::Metal, None).unwrap()
    };
    let more = with(Some(&draft)).idle.0 - with(None).idle.0;
    assert_eq!(more, 40_900_313_088);
    assert!(with(Some(&draft)).peak.0 > with(None).peak.0 + more);
}
