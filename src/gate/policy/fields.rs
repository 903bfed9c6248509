//! The fields of a request's body that `mlx_lm.server` reads and what each may contain, and those that it ignores
//! although they should change the answer.
//!
//! From reading `mlx_lm/server.py` and `sample_utils.py` 0.32.2 and from experiments: an exception in the generation
//! thread ends it for good, and most checks of the server come too late or not at all. Fields that are not listed here
//! are not read by the server and pass unchanged. `null` means "not given" in every field: the field is renamed to `_`,
//! which the server does not read.

/// Which values a field may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    /// One of the names of the model; rewritten.
    Model,
    Messages,
    /// The text to complete: one string that is not empty, alone or in a list.
    Prompt,
    Bool,
    /// A whole number in this range, inclusive.
    Int(i64, i64),
    /// A whole number from 1, lowered to what the registry and the context allow.
    Tokens,
    /// A whole number below the size of the vocabulary.
    TopK,
    /// A number in this range, inclusive, and zero or at least the third value away from it.
    Number(f64, f64, f64),
    /// A number in this range, inclusive; the server requires a decimal point.
    Float(f64, f64),
    /// One string, or an array of a few.
    Stop,
    /// Tokens, and what is added to their logits.
    Bias,
    /// `{"include_usage": …}`; without that key the server breaks off the stream.
    StreamOptions,
    Tools,
    /// Variables of the chat template; never a template.
    TemplateArguments,
    /// `auto` or `none`; the server reads neither.
    ToolChoice,
    /// Only `{"type": "text"}`: the server does not constrain answers.
    ResponseFormat,
    /// Only `["text"]`: there are no other answers.
    Modalities,
    /// One of these values, written exactly so; the second part is advice for the refusal.
    Only(&'static [&'static str], &'static str),
    /// No value but `null`, for this reason.
    Refused(&'static str),
}

pub(super) const NOT_CONSTRAINED: &str =
    "mlx_lm.server does not constrain its answers; describe the format in the prompt";
const ONE_ANSWER: &str = "each request gets one answer; send one request per answer";

const NO_SAMPLER: &str = "mlx_lm.server does not sample that way; leave it out";
const NO_LEAST: &str = "the model decides where an answer ends; leave it out";
const ONLY_BIAS: &str = "send 'logit_bias', which takes single tokens";
const VARIABLE: &str = "send it in 'chat_template_kwargs', if the model's template reads it";

/// Largest context of a penalty, in tokens; MLX cannot slice beyond 2³¹.
const WINDOW: i64 = 1_000_000;

/// Every field that the server reads, or should not ignore.
pub(crate) const FIELDS: &[(&str, Rule)] = &[
    ("model", Rule::Model),
    ("messages", Rule::Messages),
    ("prompt", Rule::Prompt),
    ("stream", Rule::Bool),
    ("stream_options", Rule::StreamOptions),
    ("max_tokens", Rule::Tokens),
    ("max_completion_tokens", Rule::Tokens),
    ("temperature", Rule::Number(0.0, 100.0, 1e-4)),
    ("top_p", Rule::Number(0.0, 1.0, 1e-6)),
    ("top_k", Rule::TopK),
    ("min_p", Rule::Number(0.0, 1.0, 1e-6)),
    ("stop", Rule::Stop),
    // mx.random.seed takes an unsigned 64-bit number.
    ("seed", Rule::Int(0, i64::MAX)),
    ("logprobs", Rule::Bool),
    ("top_logprobs", Rule::Int(-1, 11)),
    ("logit_bias", Rule::Bias),
    ("presence_penalty", Rule::Number(-100.0, 100.0, 0.0)),
    ("frequency_penalty", Rule::Number(-100.0, 100.0, 0.0)),
    ("repetition_penalty", Rule::Number(0.0, 100.0, 1e-2)),
    ("presence_context_size", Rule::Int(0, WINDOW)),
    ("frequency_context_size", Rule::Int(0, WINDOW)),
    ("repetition_context_size", Rule::Int(0, WINDOW)),
    ("xtc_probability", Rule::Float(0.0, 1.0)),
    // The server's own check lets 1.0 through; the sampler then raises above 0.5.
    ("xtc_threshold", Rule::Float(0.0, 0.5)),
    ("num_draft_tokens", Rule::Int(1, 64)),
    ("tools", Rule::Tools),
    ("chat_template_kwargs", Rule::TemplateArguments),
    ("draft_model", Rule::Refused("it would load another model")),
    ("adapters", Rule::Refused("it would load files")),
    ("role_mapping", Rule::Refused("it would replace the chat's format")),
    // From here on: fields that the server ignores.
    ("tool_choice", Rule::ToolChoice),
    ("response_format", Rule::ResponseFormat),
    ("modalities", Rule::Modalities),
    ("n", Rule::Only(&["1"], ONE_ANSWER)),
    ("best_of", Rule::Only(&["1"], ONE_ANSWER)),
    ("echo", Rule::Only(&["false"], "the answer does not repeat the prompt; put it in front yourself")),
    (
        "suffix",
        Rule::Only(&["\"\""], "text cannot be inserted; write the model's own fill-in-the-middle prompt"),
    ),
    ("add_generation_prompt", Rule::Only(&["true"], "an answer always begins a new message")),
    ("continue_final_message", Rule::Only(&["false"], "an answer always begins a new message")),
    ("functions", Rule::Refused("send 'tools' instead")),
    ("function_call", Rule::Refused("send 'tools' instead")),
    ("audio", Rule::Refused("answers are text")),
    (
        "web_search_options",
        Rule::Refused("there is no search here; put what the model should know into the prompt"),
    ),
    ("structured_outputs", Rule::Refused(NOT_CONSTRAINED)),
    ("guided_json", Rule::Refused(NOT_CONSTRAINED)),
    ("guided_regex", Rule::Refused(NOT_CONSTRAINED)),
    ("guided_choice", Rule::Refused(NOT_CONSTRAINED)),
    ("guided_grammar", Rule::Refused(NOT_CONSTRAINED)),
    ("grammar", Rule::Refused(NOT_CONSTRAINED)),
    ("json_schema", Rule::Refused(NOT_CONSTRAINED)),
    ("response_schema", Rule::Refused(NOT_CONSTRAINED)),
    ("format", Rule::Refused(NOT_CONSTRAINED)),
    ("max_new_tokens", Rule::Refused("send 'max_tokens' instead")),
    ("n_predict", Rule::Refused("send 'max_tokens' instead")),
    ("min_tokens", Rule::Only(&["0"], NO_LEAST)),
    ("ignore_eos", Rule::Only(&["false"], NO_LEAST)),
    ("stop_token_ids", Rule::Only(&["[]"], "send 'stop', with the text")),
    ("bad_words", Rule::Only(&["[]"], ONLY_BIAS)),
    ("allowed_token_ids", Rule::Refused(ONLY_BIAS)),
    ("use_beam_search", Rule::Only(&["false"], NO_SAMPLER)),
    ("typical_p", Rule::Only(&["1", "1.0"], NO_SAMPLER)),
    ("tfs", Rule::Only(&["1", "1.0"], NO_SAMPLER)),
    ("tfs_z", Rule::Only(&["1", "1.0"], NO_SAMPLER)),
    ("top_a", Rule::Only(&["0", "0.0"], NO_SAMPLER)),
    ("mirostat", Rule::Only(&["0"], NO_SAMPLER)),
    ("mirostat_mode", Rule::Only(&["0"], NO_SAMPLER)),
    ("dry_multiplier", Rule::Only(&["0", "0.0"], NO_SAMPLER)),
    ("dynatemp_range", Rule::Only(&["0", "0.0"], NO_SAMPLER)),
    ("prompt_logprobs", Rule::Refused("only the answer's probabilities are available")),
    ("truncate_prompt_tokens", Rule::Refused("send a prompt that fits")),
    ("skip_special_tokens", Rule::Only(&["true"], "special tokens are never part of the answer")),
    (
        "include_stop_str_in_output",
        Rule::Only(&["false"], "the answer never includes 'stop'; add it yourself"),
    ),
    ("return_token_ids", Rule::Only(&["false"], "answers are text")),
    ("chat_template", Rule::Refused("the model's own template formats the chat")),
    ("documents", Rule::Only(&["[]"], VARIABLE)),
    ("enable_thinking", Rule::Refused(VARIABLE)),
    ("thinking", Rule::Refused(VARIABLE)),
];

// `validate` marks the fields that it has seen, one bit each.
const _: () = assert!(FIELDS.len() <= u128::BITS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_field() {
        let text = include_str!("../../../docs/security.md");
        let (_, fields) = text.split_once("\n## Fields").unwrap();
        let (fields, _) = fields.split_once("\n### Changes").unwrap();
        // `presence_context_size` and the like are listed there as `…_context_size`.
        let missing: Vec<_> = FIELDS
            .iter()
            .map(|(name, _)| name)
            .filter(|name| !name.ends_with("_context_size") && !fields.contains(&format!("`{name}`")))
            .collect();
        assert_eq!(missing, [&""; 0]);
    }
}
