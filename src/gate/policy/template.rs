//! Which variables a request may give to the chat template. Pure.

use std::collections::BTreeSet;

mod scan;

/// Variables that chat templates of published models read. They pass whatever the model: a template that does not
/// read them renders the same.
const COMMON: &[&str] = &[
    "enable_thinking",
    "thinking",
    "thinking_budget",
    "preserve_thinking",
    "clear_thinking",
    "keep_past_thinking",
    "reasoning_effort",
    "date_string",
    "current_date",
    "model_identity",
    "add_vision_id",
    "tools_in_user_message",
    "xml_tools",
    "python_tools",
    "custom_tools",
    "builtin_tools",
    "controls",
];

/// What no request may give, whether or not the template reads it: arguments of `apply_chat_template` and of the
/// tokenizer (transformers 5.24; `chat_template`, `return_tensors` and `truncation` each end the generation thread),
/// what the server itself gives, the tokenizer's special tokens, and the names of functions.
const DENIED: &[&str] = &[
    "add_generation_prompt",
    "additional_special_tokens",
    "chat_template",
    "continue_final_message",
    "conversation",
    "conversations",
    "cycler",
    "dict",
    "joiner",
    "kwargs",
    "lipsum",
    "max_length",
    "messages",
    "namespace",
    "padding",
    "raise_exception",
    "range",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "self",
    "strftime_now",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
];

/// Names of special tokens: `bos_token`, `image_token`, …
const SPECIAL: &str = "_token";

/// The variables that a Jinja template reads before it sets them itself. What is no template yields what was found
/// until there; of a very long or deeply nested one, only the beginning counts.
pub fn variables(template: &str) -> BTreeSet<String> {
    scan::reads(template)
}

/// Whether a request may give `name`, where the template reads `variables`.
pub(crate) fn passes(name: &str, variables: &BTreeSet<String>) -> bool {
    COMMON.contains(&name) || (variables.contains(name) && !denied(name))
}

/// All that pass.
pub(crate) fn passing(variables: &BTreeSet<String>) -> BTreeSet<&str> {
    let own = variables.iter().map(String::as_str).filter(|name| !denied(name));
    COMMON.iter().copied().chain(own).collect()
}

fn denied(name: &str) -> bool {
    DENIED.contains(&name) || name.ends_with(SPECIAL) || name.starts_with('_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_template_reads_passes_unless_it_is_dangerous() {
        let template = "{{ bos_token }}{% if truncate_history_thinking %}{% endif %}{% for d in documents %}{% endfor %}\
            {{ tools }}{{ chat_template }}{{ return_tensors }}{{ image_token }}{{ _secret }}\
            {% if strftime_now is defined %}{{ strftime_now('%d') }}{% endif %}\
            {% if add_generation_prompt %}{% endif %}";
        let variables = variables(template);
        for name in ["truncate_history_thinking", "documents", "enable_thinking"] {
            assert!(passes(name, &variables), "{name}");
        }
        for name in [
            "bos_token",
            "tools",
            "chat_template",
            "return_tensors",
            "image_token",
            "_secret",
            "strftime_now",
            "add_generation_prompt",
            "messages",
            "truncation",
            "d",
            "unheard_of",
        ] {
            assert!(!passes(name, &variables), "{name}");
        }
        let passing = passing(&variables);
        assert!(passing.contains("documents") && !passing.contains("bos_token"));
    }

    #[test]
    fn nothing_that_is_common_is_denied() {
        assert!(COMMON.iter().all(|name| !denied(name)));
    }
}
