//! A configuration of the LiteLLM proxy (docs.litellm.ai/docs/proxy/configs).

use std::fmt::Write as _;

use super::{Backend, Facts, quoted};

const HEAD: &str = "\
# LiteLLM proxy, printed by `mlxctl gateway --format litellm`: `litellm --config FILE`
#
# A gate answers 503 at once while its model is offline, loading, refused or failed, so a fallback costs one round trip
# on the LAN and a model that is not there is not tried twice.
";

const SETTINGS: &str = "\
router_settings:
  num_retries: 0          # a gate resends by itself what was lost with a backend
  allowed_fails: 1
  cooldown_time: 5        # seconds
  enable_pre_call_checks: true
";

pub(super) fn render(facts: &Facts) -> String {
    let mut text = format!("{HEAD}model_list:\n");
    for backend in &facts.backends {
        for name in &backend.names {
            entry(&mut text, name, backend, facts.needs_key);
        }
    }
    text.push_str(SETTINGS);
    let _ = write!(
        text,
        "  fallbacks: {}\n  context_window_fallbacks: {}\n",
        fallbacks(facts, |_, _| true),
        fallbacks(facts, longer)
    );
    text
}

/// Every name is a model group of its own, so that fallbacks can refer to it.
fn entry(text: &mut String, name: &str, backend: &Backend, needs_key: bool) {
    // The client library requires a key, whether or not the gate does.
    let key = if needs_key { "os.environ/MLX_API_KEY" } else { "none" };
    let _ = write!(
        text,
        "  - model_name: {}\n    litellm_params:\n      model: {}\n      api_base: {}\n      api_key: {}\n      timeout: 600\n      stream_timeout: 600\n      # seconds; by default the Retry-After of a 503, which would skip a model that is back sooner\n      cooldown_time: 5\n",
        quoted(name),
        // An alias may be a preset, so the gate has to see it as it is.
        quoted(&format!("openai/{name}")),
        quoted(&format!("{}/v1", backend.url)),
        quoted(key)
    );
    let _ = write!(text, "    model_info:\n      mode: chat\n      base_model: {}\n", quoted(&backend.name));
    if let Some(context) = backend.context {
        let _ = writeln!(text, "      max_input_tokens: {context}");
    }
    if let Some(most) = backend.max_tokens {
        let _ = writeln!(text, "      max_output_tokens: {most}");
    }
}

/// `[{"70b": ["32b"]}]`, with those pairs that `fits` accepts.
fn fallbacks(facts: &Facts, fits: impl Fn(&Backend, &Backend) -> bool) -> String {
    let find = |name: &str| facts.backends.iter().find(|backend| backend.name == name);
    let mut all = Vec::new();
    for backend in &facts.backends {
        let others: Vec<_> = facts
            .stand_ins(&backend.name)
            .into_iter()
            .filter(|other| find(other).is_some_and(|other| fits(backend, other)))
            .map(quoted)
            .collect();
        if !others.is_empty() {
            all.extend(
                backend.names.iter().map(|name| format!("{{{}: [{}]}}", quoted(name), others.join(", "))),
            );
        }
    }
    format!("[{}]", all.join(", "))
}

/// Whether a request that is too long for `backend` may fit `other`.
fn longer(backend: &Backend, other: &Backend) -> bool {
    backend.context.is_some_and(|short| other.context.is_none_or(|long| long > short))
}
