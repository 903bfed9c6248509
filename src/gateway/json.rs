//! For everything else. Keys are promises.

use serde::Serialize;

use super::Facts;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    facts: &'a Facts,
}

pub(super) fn render(facts: &Facts) -> String {
    // Nothing in it can fail to be written: strings, numbers and flags.
    let text = serde_json::to_string_pretty(&Document { schema: 1, facts }).unwrap_or_default();
    format!("{text}\n")
}
