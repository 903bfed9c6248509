//! How long an answer may be. What a request asks for is an upper bound: it is lowered to what the registry allows and
//! the context leaves. Coding agents ask for 32,000 tokens with every request.

use std::ops::Range;

use super::json::{Kind, Scanner};
use super::rewrite::Edit;
use super::rules::Rules;
use super::server_error::CONTEXT;
use super::value::expect;
use crate::gate::wire::Refusal;

/// Bytes of text per token, for the estimate that is compared with the context. Measured for English prose with the
/// tokenizers of Qwen2.5 and DeepSeek: 4 to 5; code and other scripts take more tokens, so the estimate is low.
const BYTES_PER_TOKEN: u64 = 5;
/// Tokens that a chat template adds to a message: four or five in ChatML and Llama 3, two in the shortest.
const MESSAGE_TOKENS: u64 = 2;
/// Most bytes of text per token, if the backend counts exactly: no known tokenizer has longer tokens than runs of this
/// many spaces.
const MOST_BYTES_PER_TOKEN: u64 = 128;

/// What a body says about the lengths of prompt and answer.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Bytes that become part of the prompt.
    pub text: u64,
    /// Number of messages in the chat.
    pub messages: u32,
    asked: Vec<(u64, Range<usize>)>,
}

impl Room {
    /// Reads `max_tokens` or `max_completion_tokens`: 1 or more.
    ///
    /// # Errors
    /// 400 for any other value.
    pub(crate) fn ask(&mut self, scanner: &mut Scanner<'_>, name: &str) -> Result<(), Refusal> {
        expect(scanner, name, Kind::Number, "a whole number")?;
        let start = scanner.position();
        let text = scanner.number()?;
        // A number too large for the type is still an upper bound.
        let value = text.parse::<u64>().unwrap_or(u64::MAX);
        if value == 0 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            let why = format!("'{name}' must be a whole number, 1 or more");
            return Err(Refusal::invalid(Some(name), why));
        }
        self.asked.push((value, start..scanner.position()));
        Ok(())
    }

    /// The edits that keep the answer within bounds. `preset`: the limit if the request sets none; `start`: where a
    /// member can be inserted; `input`: the field with the prompt.
    ///
    /// An exact count needs the tokenizer. If the backend has it, and shortens answers to what is left, only a prompt
    /// that cannot fit is refused here, before it costs anything. Otherwise an estimate decides, which is low, but
    /// covers everything that a chat template writes except images.
    ///
    /// # Errors
    /// 400 for a prompt that leaves no room for an answer.
    pub(crate) fn edits(
        self,
        rules: &Rules<'_>,
        preset: Option<u32>,
        start: usize,
        input: &str,
    ) -> Result<Vec<Edit>, Refusal> {
        let mut most = u64::from(rules.max_tokens.unwrap_or(u32::MAX));
        if let Some(context) = rules.context.map(u64::from) {
            let (prompt, about) = if rules.counted {
                (self.text / MOST_BYTES_PER_TOKEN, "at least")
            } else {
                let around = u64::from(self.messages) * MESSAGE_TOKENS;
                (self.text.div_ceil(BYTES_PER_TOKEN) + around, "about")
            };
            if prompt >= context {
                let message = format!(
                    "the prompt has {about} {prompt} tokens, but the context is {context}; shorten '{input}'"
                );
                return Err(Refusal { code: CONTEXT, ..Refusal::invalid(Some(input), message) });
            }
            if !rules.counted {
                most = most.min(context - prompt);
            }
        }
        if self.asked.is_empty() {
            let wanted = u64::from(preset.unwrap_or(rules.default_tokens));
            let differs = preset.is_some() || wanted > most;
            return Ok(differs.then_some(Edit::InsertTokens(start, wanted.min(most))).into_iter().collect());
        }
        let above = self.asked.into_iter().filter(|(value, _)| *value > most);
        Ok(above.map(|(_, span)| Edit::Number(span, most)).collect())
    }
}
