//! Tests that need something a machine may lack.

use std::io::Write as _;

/// Says that something was not tried, and why. Writes to stderr directly, because a passing test's output is captured.
pub fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {why}");
}
