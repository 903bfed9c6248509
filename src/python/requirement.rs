//! What to install: the registry's requirements and the platform's MLX, and which versions are refused. Pure.

use sha2::{Digest, Sha256};

/// The oldest mlx-lm that is accepted. In earlier versions `model_file` in a model's `config.json` runs code
/// (CVE-2026-5843), and `/health` stays 200 after the generation thread died.
pub(crate) const OLDEST_MLX_LM: [u32; 3] = [0, 32, 0];

/// Version of an NVIDIA kernel driver, major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverVersion(pub u32, pub u32);

impl DriverVersion {
    /// Parses `/proc/driver/nvidia/version`, or the plain number that `nvidia-smi` prints.
    pub fn parse(text: &str) -> Option<Self> {
        text.lines().next()?.split_whitespace().find_map(|word| {
            let mut parts = word.split('.');
            let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            // Other dotted numbers in that line are small.
            (major >= 100).then_some(Self(major, minor))
        })
    }
}

/// The requirement for MLX's library on this platform; `None` if mlx-lm already requires it.
///
/// `os` is `std::env::consts::OS`. CUDA 13.0 needs driver 580 and MLX's CUDA 12 builds need 550.54; with an older
/// driver MLX computes on the CPU.
pub(crate) fn platform_requirement(os: &str, nvidia: Option<DriverVersion>) -> Option<&'static str> {
    match nvidia {
        _ if os == "macos" => None,
        Some(driver) if driver >= DriverVersion(580, 0) => Some("mlx[cuda13]"),
        Some(driver) if driver >= DriverVersion(550, 54) => Some("mlx[cuda12]"),
        _ => Some("mlx[cpu]"),
    }
}

/// Everything to install: the registry's packages, and the platform's MLX unless they include MLX.
pub(crate) fn requirements(packages: &[String], os: &str, nvidia: Option<DriverVersion>) -> Vec<String> {
    let mut all = packages.to_vec();
    if !packages.iter().any(|package| name(package) == "mlx") {
        all.extend(platform_requirement(os, nvidia).map(str::to_owned));
    }
    all
}

/// A hash of a set of requirements, regardless of their order.
pub(crate) fn hash(requirements: &[String]) -> String {
    let mut sorted: Vec<_> = requirements.iter().map(|text| text.trim()).collect();
    sorted.sort_unstable();
    let digest = Sha256::digest(sorted.join("\n"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Why this version of mlx-lm is refused, if it is.
pub(crate) fn refused_mlx_lm(version: &str) -> Option<String> {
    let mut numbers: Vec<u32> = version
        .split('.')
        .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>())
        .map_while(|digits| digits.parse().ok())
        .collect();
    if numbers.is_empty() {
        return None;
    }
    numbers.resize(numbers.len().max(OLDEST_MLX_LM.len()), 0);
    if numbers.as_slice() >= OLDEST_MLX_LM.as_slice() {
        return None;
    }
    Some(format!(
        "mlx-lm {version} is refused: before 0.32.0 a model's files can run code on this machine \
         (CVE-2026-5843), and a dead generation thread goes unnoticed"
    ))
}

/// Why a pinned requirement (`mlx-lm==…`) is refused, if one is.
pub(crate) fn refused_pin(packages: &[String]) -> Option<String> {
    packages
        .iter()
        .filter(|package| name(package) == "mlx-lm")
        .filter_map(|package| package.split_once("==").map(|(_, version)| version.trim()))
        .find_map(refused_mlx_lm)
}

/// A requirement's project name, normalised by PEP 503, without extras and version.
fn name(requirement: &str) -> String {
    let end = requirement
        .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
        .unwrap_or(requirement.len());
    requirement[..end].to_ascii_lowercase().replace(['_', '.'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_platforms_mlx_follows_from_system_and_driver() {
        for (os, nvidia, expected) in [
            ("macos", None, None),
            ("macos", Some(DriverVersion(580, 65)), None),
            ("linux", None, Some("mlx[cpu]")),
            ("linux", Some(DriverVersion(470, 1)), Some("mlx[cpu]")),
            ("linux", Some(DriverVersion(550, 54)), Some("mlx[cuda12]")),
            ("linux", Some(DriverVersion(580, 0)), Some("mlx[cuda13]")),
        ] {
            assert_eq!(platform_requirement(os, nvidia), expected, "{os} {nvidia:?}");
        }
    }

    #[test]
    fn mlx_is_added_unless_the_registry_names_it() {
        let added = requirements(&packages(&["mlx-lm==0.32.2"]), "linux", None);
        assert_eq!(added, ["mlx-lm==0.32.2", "mlx[cpu]"]);
        let named = packages(&["mlx-lm==0.32.2", "MLX[cuda12]==0.32.4"]);
        assert_eq!(requirements(&named, "linux", None), named);
    }

    #[test]
    fn the_driver_is_read_from_both_kernel_modules() {
        let closed =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n";
        let open =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC 12.2.0";
        assert_eq!(DriverVersion::parse(closed), Some(DriverVersion(550, 54)));
        assert_eq!(DriverVersion::parse(open), Some(DriverVersion(580, 65)));
        assert_eq!(DriverVersion::parse("535.104.05\n"), Some(DriverVersion(535, 104)));
        assert_eq!(DriverVersion::parse("GCC version 12.2.0"), None);
        assert_eq!(DriverVersion::parse(""), None);
    }

    #[test]
    fn an_mlx_lm_before_0_32_is_refused_with_the_reason() {
        for old in ["0.31.3", "0.9", "0.31.99.dev1"] {
            assert!(refused_mlx_lm(old).unwrap().contains("CVE-2026-5843"), "{old}");
        }
        for good in ["0.32.0", "0.32.2", "0.33.0rc1", "0.32", "1.0"] {
            assert_eq!(refused_mlx_lm(good), None, "{good}");
        }
        assert!(refused_pin(&packages(&["mlx_lm == 0.31.2"])).is_some());
        assert_eq!(refused_pin(&packages(&["mlx-lm>=0.32", "mlx-lm-extra==0.1"])), None);
    }

    #[test]
    fn the_hash_changes_with_the_requirements_and_not_with_their_order() {
        let (a, b) = (packages(&["mlx-lm==0.32.2", "mlx[cpu]"]), packages(&["mlx[cpu]", " mlx-lm==0.32.2"]));
        assert_eq!(hash(&a), hash(&b));
        assert_ne!(hash(&a), hash(&packages(&["mlx-lm==0.32.3", "mlx[cpu]"])));
    }
}
