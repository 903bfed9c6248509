//! Finds the cause of a failed installation in the installer's output. Pure.

/// The cause of a failed installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The relevant line of the output.
    pub why: String,
    pub hint: String,
}

/// Words that identify a cause, and what to do about it. The first match counts, so causes come before their
/// consequences (without a network, pip ends with "no such version").
const CAUSES: [(&[&str], &str); 6] = [
    (
        &["no space left on device", "disk quota exceeded", "os error 28)"],
        "free some disk space and run `mlxctl setup` again",
    ),
    (
        &["certificate_verify_failed", "certificate verify failed", "invalid peer certificate"],
        "the package index could not be trusted: check the clock, and the certificates of a proxy in between \
         (PIP_CERT, SSL_CERT_FILE)",
    ),
    (
        &[
            "name resolution",
            "nodename nor servname",
            "failed to establish a new connection",
            "network is unreachable",
            "connection refused",
            "connection reset",
            "proxyerror",
            "proxy error",
            "read timed out",
            "connecttimeouterror",
            "dns error",
            "error sending request",
            "failed to fetch",
        ],
        "the package index cannot be reached: check the network (and HTTPS_PROXY), then run `mlxctl setup` again",
    ),
    (
        &["permission denied", "operation not permitted", "read-only file system"],
        "this user may not write there: change the owner of the folder, or set another `venv` in [paths]",
    ),
    (
        &["(from versions: none)", "has no wheels with a matching"],
        "no packages exist for this Python on this system: MLX needs macOS 14 or later with a native arm64 Python, or \
         Linux, and Python 3.11 to 3.14 (`interpreter` in [python]); otherwise check the network and the index's address",
    ),
    (
        &[
            "could not find a version",
            "no matching distribution found",
            "there is no version of",
            "no solution found",
        ],
        "check `packages` in [python] of the registry: that version does not exist or conflicts with another package",
    ),
];

/// Finds the relevant line in the output of pip or uv, and what to do about it.
pub(crate) fn installer(lines: &[String]) -> Diagnosis {
    for (words, hint) in CAUSES {
        let found = lines.iter().find(|line| {
            let line = line.to_ascii_lowercase();
            words.iter().any(|word| line.contains(word))
        });
        if let Some(line) = found {
            return Diagnosis { why: short(line), hint: hint.to_owned() };
        }
    }
    let telling = lines
        .iter()
        .rev()
        .find(|line| line.to_ascii_lowercase().trim_start().starts_with("error"))
        .or_else(|| lines.iter().rev().find(|line| !line.trim().is_empty()));
    Diagnosis {
        why: telling.map_or_else(|| "it printed nothing".to_owned(), |line| short(line)),
        hint: "run `mlxctl -v setup` to see all of its output".to_owned(),
    }
}

/// Shortens a line to its first and last 120 characters: pip lists every version there has ever been.
fn short(line: &str) -> String {
    const END: usize = 120;
    let line = line.trim();
    let count = line.chars().count();
    if count <= 2 * END {
        return line.to_owned();
    }
    line.chars().take(END).chain([' ', '…', ' ']).chain(line.chars().skip(count - END)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(output: &str) -> String {
        installer(&output.lines().map(str::to_owned).collect::<Vec<_>>()).hint
    }

    #[test]
    fn causes_are_named_before_their_consequences() {
        let offline = "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(\
            '<…>: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')'\n\
            ERROR: Could not find a version that satisfies the requirement mlx-lm==0.32.2 (from versions: none)\n\
            ERROR: No matching distribution found for mlx-lm==0.32.2";
        assert!(hint(offline).contains("network"));
        let full = "Installing collected packages: mlx\nERROR: Could not install packages due to an OSError: \
            [Errno 28] No space left on device";
        assert!(hint(full).contains("disk space"));
        let rosetta = "ERROR: Could not find a version that satisfies the requirement mlx (from versions: none)\n\
            ERROR: No matching distribution found for mlx";
        assert!(hint(rosetta).contains("arm64"));
        let version = "ERROR: Could not find a version that satisfies the requirement mlx-lm==9.9 (from versions: 0.1)\n\
            ERROR: No matching distribution found for mlx-lm==9.9";
        assert!(hint(version).contains("packages"));
        assert!(hint("ERROR: [Errno 13] Permission denied: '/x'").contains("owner"));
    }

    #[test]
    fn an_unknown_failure_is_told_by_its_last_error_line() {
        let lines = ["Collecting x", "ERROR: the dog ate it", "more words", ""].map(str::to_owned);
        assert_eq!(installer(&lines).why, "ERROR: the dog ate it");
        assert_eq!(installer(&[]).why, "it printed nothing");
        let long = installer(&[format!("ERROR: versions: {} 0.32.2)", "0.1.0, ".repeat(200))]).why;
        assert!(
            long.starts_with("ERROR: versions") && long.ends_with("0.32.2)") && long.len() < 260,
            "{long}"
        );
    }
}
