//! Which variables a request may give to the chat template. Pure.

use std::collections::BTreeSet;

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

/// Whether a request may give `name`, where the template reads `variables`; `None`: not known.
pub(crate) fn passes(name: &str, variables: Option<&BTreeSet<String>>) -> bool {
    let own = || variables.is_none_or(|variables| variables.contains(name)) && !denied(name);
    COMMON.contains(&name) || own()
}

/// All that pass by name.
pub(crate) fn passing(variables: Option<&BTreeSet<String>>) -> BTreeSet<&str> {
    let own = variables.into_iter().flatten().map(String::as_str).filter(|name| !denied(name));
    COMMON.iter().copied().chain(own).collect()
}

fn denied(name: &str) -> bool {
    DENIED.contains(&name) || name.ends_with(SPECIAL) || name.starts_with('_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DANGEROUS: [&str; 11] = [
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
        "tokenizer_kwargs",
    ];

    #[test]
    fn what_the_template_reads_passes_unless_it_is_dangerous() {
        let own = ["truncate_history_thinking", "documents"];
        let variables: BTreeSet<String> = own.into_iter().chain(DANGEROUS).map(str::to_owned).collect();
        for name in own.into_iter().chain(["enable_thinking"]) {
            assert!(passes(name, Some(&variables)), "{name}");
        }
        for name in DANGEROUS.into_iter().chain(["unheard_of"]) {
            assert!(!passes(name, Some(&variables)), "{name}");
        }
        let passing = passing(Some(&variables));
        assert!(passing.contains("documents") && !passing.contains("bos_token"));
    }

    #[test]
    fn of_a_template_that_is_not_known_all_passes_that_is_not_dangerous() {
        for name in ["truncate_history_thinking", "unheard_of", "enable_thinking"] {
            assert!(passes(name, None), "{name}");
        }
        assert!(DANGEROUS.iter().all(|name| !passes(name, None)));
    }

    #[test]
    fn nothing_that_is_common_is_denied() {
        assert!(COMMON.iter().all(|name| !denied(name)));
    }
}
