//! Tests that need what a machine may lack.

use std::io::Write as _;

/// Says that something was not tried, and why. Written to stderr itself: what a passing test prints is kept from it.
pub fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {why}");
}
