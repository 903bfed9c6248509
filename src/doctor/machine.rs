//! The machine: system and chip, memory of the GPU, swap, power, clock, open files.

use std::time::{Duration, SystemTime};

use super::Finding;
use crate::memory::GpuLimit;
use crate::units::Bytes;

/// The oldest macOS that MLX's wheels run on.
const OLDEST_MACOS: u32 = 14;

/// Swap use below this is normal: a Mac that was busy once keeps some for days.
const SWAP_UNREMARKABLE: Bytes = Bytes::gb(2);

/// Whether MLX can run here. `os` is "macOS 15.1" or "Linux 6.18"; `arch` is this program's.
pub(crate) fn system(os: &str, chip: Option<&str>, arch: &str) -> Finding {
    let id = "system";
    let seen = chip.map_or_else(|| os.to_owned(), |chip| format!("{os} on {chip}"));
    let Some(version) = os.strip_prefix("macOS ") else { return Finding::ok(id, seen) };
    if chip.is_some_and(|chip| chip.starts_with("Intel")) {
        return Finding::fail(id, seen, "MLX needs Apple Silicon; this Mac has none");
    }
    if arch != "aarch64" {
        return Finding::fail(
            id,
            format!("{seen}, but this mlxctl is {arch} under Rosetta"),
            "install the arm64 mlxctl",
        );
    }
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major < OLDEST_MACOS => {
            Finding::fail(id, seen, format!("MLX needs macOS {OLDEST_MACOS} or newer: softwareupdate --list"))
        }
        _ => Finding::ok(id, seen),
    }
}

/// Whether the always-on models fit into what the GPU may hold.
pub(crate) fn gpu_limit(limit: Option<GpuLimit>, always_on: Bytes) -> Finding {
    let id = "gpu-limit";
    match limit {
        // macOS decides (67 to 84 % of memory in reports), and only tells a program that uses Metal.
        None => Finding::skip(
            id,
            "neither the system nor the environment's setup says how much memory the GPU may hold",
        ),
        Some(limit) if always_on > limit.bytes => Finding::fail(
            id,
            format!("the always-on models need {always_on}, the GPU may hold {limit}"),
            "make one of them start = \"manual\", or raise iogpu.wired_limit_mb",
        ),
        Some(limit) => {
            Finding::ok(id, format!("the GPU may hold {limit}; the always-on models need {always_on}"))
        }
    }
}

/// Whether the machine is short of memory.
pub(crate) fn swap(used: Option<Bytes>) -> Finding {
    let id = "swap";
    match used {
        None => Finding::skip(id, "the system does not say how much swap is in use"),
        Some(used) if used > SWAP_UNREMARKABLE => Finding::warn(
            id,
            format!("{used} of memory is swapped out: models answer slowly while they compete for memory"),
            "mlxctl budget shows what is reserved; close what you do not need",
        ),
        Some(used) => Finding::ok(id, format!("{used} in use")),
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Power {
    /// Whether it runs on battery; `None`: unknown.
    pub battery: Option<bool>,
    /// Whether low power mode is on.
    pub low_power: Option<bool>,
}

impl Power {
    /// Reads `pmset -g batt` (its first line names the source) and `pmset -g` (`lowpowermode 1`, or on machines
    /// with three modes `powermode`, whose 1 is low).
    pub(crate) fn parse(battery: &str, settings: &str) -> Self {
        let source = battery.lines().next().unwrap_or_default();
        let setting = |name: &str| {
            let mut words = settings.lines().map(str::split_whitespace);
            words.find_map(|mut line| (line.next()? == name).then(|| line.next())?)
        };
        Self {
            battery: if source.contains("'AC Power'") {
                Some(false)
            } else if source.contains("'Battery Power'") {
                Some(true)
            } else {
                None
            },
            low_power: setting("lowpowermode").or_else(|| setting("powermode")).map(|mode| mode == "1"),
        }
    }
}

/// Whether the power state slows the models down.
pub(crate) fn power(power: Power) -> Finding {
    let id = "power";
    match power {
        Power { low_power: Some(true), .. } => Finding::warn(
            id,
            "low power mode is on, which slows the GPU down",
            "System Settings > Battery > Low Power Mode: never, or only on battery",
        ),
        Power { battery: Some(true), .. } => Finding::warn(
            id,
            "on battery: loaded models drain it, and closing the lid stops them",
            "connect the power adapter while the models are in use",
        ),
        Power { battery: Some(false), .. } => Finding::ok(id, "power adapter"),
        Power { battery: None, .. } => Finding::skip(id, "the system does not report its power source"),
    }
}

/// Whether the clock can be right: it is wrong if it is before this program's file was written.
pub(crate) fn clock(now: SystemTime, program_made: Option<SystemTime>) -> Finding {
    let id = "clock";
    // A day of tolerance: archives carry the time of another machine.
    match program_made.and_then(|made| made.duration_since(now).ok()) {
        Some(behind) if behind > Duration::from_secs(86_400) => Finding::fail(
            id,
            format!("the clock is {} days behind this program's own file", behind.as_secs() / 86_400),
            "set the clock: downloads fail while it is wrong",
        ),
        _ => Finding::ok(id, "plausible"),
    }
}

/// Whether there are enough open files for every client that the registry admits. `wanted`: what the models'
/// connections need; `soft` and `hard`: this process's limits.
pub(crate) fn open_files(soft: u64, hard: u64, wanted: u64) -> Finding {
    let id = "open-files";
    if hard < wanted {
        return Finding::fail(
            id,
            format!("at most {hard} open files are allowed; the registry's connections need {wanted}"),
            "lower `connections` in the registry, or raise the hard limit of the system",
        );
    }
    if soft < wanted {
        return Finding::warn(
            id,
            format!("{soft} open files here; the registry's connections need {wanted}"),
            format!(
                "the agent raises the limit itself; for `mlxctl serve` in this terminal: ulimit -n {wanted}"
            ),
        );
    }
    Finding::ok(id, format!("{soft}; at most {wanted} are needed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;
    use crate::memory::gpu::LimitSource;

    #[test]
    fn mlx_needs_apple_silicon_and_a_recent_macos() {
        let state = |os, chip, arch| system(os, Some(chip), arch).state;
        assert_eq!(state("macOS 15.1", "Apple M4 Max", "aarch64"), State::Ok);
        assert_eq!(state("Linux 6.18", "AMD EPYC", "x86_64"), State::Ok);
        assert_eq!(state("macOS 13.6", "Apple M1", "aarch64"), State::Fail);
        assert_eq!(state("macOS 15.1", "Intel(R) Core(TM) i9", "x86_64"), State::Fail);
        assert_eq!(state("macOS 15.1", "Apple M4 Max", "x86_64"), State::Fail);
    }

    #[test]
    fn the_gpu_must_be_able_to_hold_what_is_always_on() {
        let limit = |gb| Some(GpuLimit { bytes: Bytes::gb(gb), source: LimitSource::Setup });
        assert_eq!(gpu_limit(limit(96), Bytes::gb(20)).state, State::Ok);
        let small = gpu_limit(limit(16), Bytes::gb(20));
        assert_eq!(small.state, State::Fail);
        assert!(small.seen.contains("16.0 GB (macOS's default, from mlxctl setup)"), "{}", small.seen);
        assert_eq!(gpu_limit(None, Bytes::gb(20)).state, State::Skip);
    }

    #[test]
    fn a_machine_that_swaps_is_warned_about() {
        assert_eq!(swap(Some(Bytes::gb(1))).state, State::Ok);
        assert_eq!(swap(Some(Bytes::gb(3))).state, State::Warn);
        assert_eq!(swap(None).state, State::Skip);
    }

    #[test]
    fn the_power_source_is_read_from_pmset() {
        let ac = "Now drawing from 'AC Power'\n -InternalBattery-0 (id=1)\t100%; charged\n";
        let battery = "Now drawing from 'Battery Power'\n";
        assert_eq!(power(Power::parse(ac, " lowpowermode         0\n")).state, State::Ok);
        assert_eq!(power(Power::parse(battery, "")).state, State::Warn);
        assert!(
            power(Power::parse(ac, "System-wide:\n powermode            1\n")).seen.contains("low power")
        );
        assert_eq!(power(Power::parse(ac, " powermode 2\n")).state, State::Ok);
        assert_eq!(power(Power::parse("", "")).state, State::Skip);
    }

    #[test]
    fn a_clock_from_before_this_program_is_wrong() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(clock(made + Duration::from_secs(1), Some(made)).state, State::Ok);
        assert_eq!(clock(made - Duration::from_secs(3_600), Some(made)).state, State::Ok);
        assert_eq!(clock(SystemTime::UNIX_EPOCH, Some(made)).state, State::Fail);
    }

    #[test]
    fn the_file_limit_must_hold_the_connections() {
        assert_eq!(open_files(8_192, 65_536, 1_024).state, State::Ok);
        assert_eq!(open_files(256, 65_536, 1_024).state, State::Warn);
        assert_eq!(open_files(256, 512, 1_024).state, State::Fail);
    }
}
