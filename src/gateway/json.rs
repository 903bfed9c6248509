//! JSON, for everything else. Its keys are stable.

use serde::Serialize;

use super::Facts;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    facts: &'a Facts,
}

pub(super) fn render(facts: &Facts) -> String {
    // Serializing strings, numbers and flags cannot fail.
    let text = serde_json::to_string_pretty(&Document { schema: 1, facts }).unwrap_or_default();
    format!("{text}\n")
}
