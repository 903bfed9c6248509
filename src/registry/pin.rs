//! Which versions of mlx-lm may be installed.

use std::cmp::Ordering;

/// The oldest mlx-lm that is safe to serve with.
///
/// CVE-2026-5843: up to 0.31.3, loading a model runs code from its `model_file`, and a client can choose the model;
/// also, `/health` stays 200 when the generation thread is dead.
pub(crate) const MIN_MLX_LM: &str = "0.32.0";

/// Why an older version is refused, for people.
const WHY: &str = "before 0.32.0 a model's `model_file` runs code (CVE-2026-5843) and /health stays 200 when the generation thread is dead";

/// Whether this version of mlx-lm is older than [`MIN_MLX_LM`], as its pre-releases are (PEP 440: rc, a, b and dev sort
/// before a release, post after).
pub(crate) fn is_too_old(version: &str) -> bool {
    let version = version.trim().trim_start_matches('v');
    let release_end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let (release, rest) = version.split_at(release_end);
    // A number too large for the type is large.
    let numbers = |text: &str| -> Vec<u64> {
        text.split('.').filter(|part| !part.is_empty()).map(|part| part.parse().unwrap_or(u64::MAX)).collect()
    };
    let (mut asked, mut least) = (numbers(release), numbers(MIN_MLX_LM));
    let length = asked.len().max(least.len());
    asked.resize(length, 0);
    least.resize(length, 0);
    match asked.cmp(&least) {
        Ordering::Less => true,
        Ordering::Greater => false,
        // The rest of `0.32.*` is a star, and that of `0.32.0+local` a local part: neither is a pre-release.
        Ordering::Equal => {
            let rest = rest.trim_start_matches(['.', '-', '_']).to_ascii_lowercase();
            ["a", "b", "c", "rc", "dev", "pre"].iter().any(|mark| rest.starts_with(mark))
        }
    }
}

/// Whether the requirement is for mlx-lm, in any spelling (PEP 503).
pub(super) fn is_mlx_lm(requirement: &str) -> bool {
    let name: String = requirement
        .trim()
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .map(|c| if matches!(c, '_' | '.') { '-' } else { c.to_ascii_lowercase() })
        .collect();
    name == "mlx-lm"
}

/// Checks one requirement of `python.packages`.
///
/// # Errors
/// The problem and a hint: it is an option of pip, or an mlx-lm that is not pinned or too old. A direct reference
/// (`mlx-lm @ https://…`) cannot be checked before it is installed, and passes.
pub(crate) fn check_pin(requirement: &str) -> Result<(), (String, String)> {
    let text = requirement.trim();
    let first = text.chars().next();
    if !first.is_some_and(|c| c.is_ascii_alphanumeric()) || text.chars().any(char::is_control) {
        return Err((
            "this is not a requirement".into(),
            "a package and its version, for example \"mlx-lm==0.32.2\"".into(),
        ));
    }
    if !is_mlx_lm(text) {
        return Ok(());
    }
    let specifier = text
        .trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let specifier = match specifier.strip_prefix('[') {
        Some(extras) => extras.split_once(']').map_or("", |(_, rest)| rest.trim()),
        None => specifier,
    };
    if specifier.starts_with('@') {
        return Ok(());
    }
    let pinned = specifier.split(',').find_map(|part| part.trim().strip_prefix("=="));
    let Some(version) = pinned.map(|version| version.trim_start_matches('=').trim()) else {
        return Err((
            "mlx-lm is not pinned: the version would depend on the day of installation".into(),
            format!("write \"mlx-lm==0.32.2\" (at least {MIN_MLX_LM})"),
        ));
    };
    if is_too_old(version) {
        return Err((
            format!("mlx-lm {version} is refused: {WHY}"),
            format!("\"mlx-lm==0.32.2\", at least {MIN_MLX_LM}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_the_fix_are_too_old() {
        for old in ["0.31.3", "0.9", "0", "0.32.0rc1", "0.32.0.dev3", "v0.31.99", "0.31.*", "0.31.3.post1"] {
            assert!(is_too_old(old), "{old}");
        }
        for good in ["0.32.0", "0.32", "0.32.2", "0.33.0rc1", "1.0", "0.32.*", "0.32.0.post1", "0.32.0+local"]
        {
            assert!(!is_too_old(good), "{good}");
        }
    }

    #[test]
    fn mlx_lm_must_be_pinned_and_new_enough_in_any_spelling() {
        for bad in [
            "mlx-lm",
            "mlx_lm>=0.32",
            "MLX.LM==0.31.0",
            "mlx-lm[train]==0.30.1",
            "mlx-lm ~= 0.32",
            "--index-url=x",
            "",
            "mlx-lm==0.31.2 ; python_version > '3'",
            "-e .",
            "mlx-lm\n==0.32.2",
            "mlx-lm[",
        ] {
            assert!(check_pin(bad).is_err(), "{bad}");
        }
        for good in [
            "mlx-lm==0.32.2",
            "mlx_lm[train] == 0.33.0",
            "mlx-lm @ git+https://example.org/x",
            "mlx-lm-extra",
        ] {
            assert_eq!(check_pin(good), Ok(()), "{good}");
        }
    }
}
