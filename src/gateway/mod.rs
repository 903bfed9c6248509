//! What an LLM gateway needs to reach the models, one file per format.
//!
//! All formats carry the same [`Facts`]. Pure: text in, text out.

mod env;
mod facts;
mod json;
mod litellm;
mod python;

pub(crate) use facts::{Backend, Facts};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A module for a gateway in Python with httpx: health, routing, fallback
    Python,
    /// A complete gateway as a FastAPI app, which imports the module that `python` prints
    Fastapi,
    /// A configuration of the LiteLLM proxy: models, fallbacks, cooldown
    Litellm,
    /// Variables for a shell, or an EnvironmentFile
    Env,
    /// The same facts as JSON
    Json,
}

/// The whole text, ending in a newline.
pub(crate) fn render(format: Format, facts: &Facts) -> String {
    match format {
        Format::Python => python::render(facts),
        Format::Fastapi => python::APP.to_owned(),
        Format::Litellm => litellm::render(facts),
        Format::Env => env::render(facts),
        Format::Json => json::render(facts),
    }
}

/// A JSON string literal, which is also one in YAML and Python.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
