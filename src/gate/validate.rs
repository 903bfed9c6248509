//! What a request's body may say. Pure: a body and rules in, a list of changes or a refusal out.

use super::error::Refusal;
use super::fields::{FIELDS, Rule, TEMPLATE_VARIABLES};
use super::json::{Fault, Kind, Scanner, Text};
use super::messages;
use super::rewrite::Edit;
use super::value::{boolean, expect, expect_string, integer, number, wrong};

/// The two endpoints of `mlx_lm.server` that generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

/// What the body is held against.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// What clients may call the model.
    pub accepted: &'a [String],
    /// What the backend calls it.
    pub served: &'a str,
    /// Largest `max_tokens`.
    pub max_tokens: Option<u32>,
    /// Messages of one chat.
    pub messages: u32,
    /// Longest prompt plus answer, tokens.
    pub context: Option<u32>,
    /// Tokens of an answer whose request names no number.
    pub default_tokens: u32,
    /// Tokens that the model knows.
    pub vocabulary: Option<u32>,
    /// Whether remote images may be named.
    pub remote_images: bool,
}

/// A body that may go to the server once it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What must change.
    pub edits: Vec<Edit>,
    /// Whether the answer is a stream.
    pub stream: bool,
}

/// Stop strings, at most, and bytes of each: the server builds an automaton of them in Python, in front of
/// everybody else's tokens.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;
/// Entries of `logit_bias`, at most.
const BIASES: usize = 1024;
/// `top_k` where the vocabulary is not known: no published tokenizer is smaller than the bytes.
const TOP_K: i64 = 255;
/// Bytes of text a token, for the estimate that is held against the context. Measured for English prose with
/// the tokenizers of Qwen2.5 and DeepSeek: 4 to 5; code and other scripts take more tokens, so the estimate is low.
const BYTES_PER_TOKEN: u64 = 5;
/// Tokens that a chat template writes around a message: four or five in ChatML and Llama 3, two in the shortest.
const MESSAGE_TOKENS: u64 = 2;

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::invalid(None, format!("the body is not valid JSON: {} at byte {}", fault.what, fault.at))
    }
}

/// Reads the whole body.
///
/// # Errors
/// 400 with the field's name, or 404 for another model.
pub fn validate(body: &[u8], endpoint: Endpoint, rules: &Rules<'_>) -> Result<Accepted, Refusal> {
    let mut scanner = Scanner::new(body)?;
    if scanner.kind()? != Kind::Object {
        return Err(Refusal::invalid(None, "the body must be a JSON object".to_owned()));
    }
    scanner.enter()?;
    let start = scanner.position();
    let mut check = Check {
        rules,
        edits: Vec::new(),
        stream: false,
        text: 0,
        tokens: 0,
        max_tokens: [None; 2],
        named: false,
    };
    let (mut first, mut seen, mut input) = (true, 0_u64, false);
    while let Some(key) = scanner.member(&mut first)? {
        let name = key.decoded();
        let Some(index) = FIELDS.iter().position(|(field, _)| *field == name) else {
            scanner.skip()?;
            continue;
        };
        if seen & (1 << index) != 0 {
            return Err(Refusal::invalid(Some(&name), format!("'{name}' is given twice")));
        }
        seen |= 1 << index;
        let Some((field, rule)) = FIELDS.get(index) else { continue };
        input |= matches!(
            (endpoint, rule),
            (Endpoint::Chat, Rule::Messages) | (Endpoint::Completions, Rule::Prompt)
        );
        check.field(&mut scanner, field, *rule, &key)?;
    }
    scanner.end()?;
    if !input {
        let field = if endpoint == Endpoint::Chat { "messages" } else { "prompt" };
        return Err(Refusal::invalid(Some(field), format!("'{field}' is missing")));
    }
    if !check.named {
        check.edits.push(Edit::Insert(start));
    }
    check.fits()?;
    Ok(Accepted { edits: check.edits, stream: check.stream })
}

struct Check<'r> {
    rules: &'r Rules<'r>,
    edits: Vec<Edit>,
    stream: bool,
    /// Bytes that become part of the prompt.
    text: u64,
    /// Tokens beside them.
    tokens: u64,
    max_tokens: [Option<i64>; 2],
    named: bool,
}

impl Check<'_> {
    fn field(
        &mut self,
        scanner: &mut Scanner<'_>,
        name: &str,
        rule: Rule,
        key: &Text<'_>,
    ) -> Result<(), Refusal> {
        let kind = scanner.kind()?;
        if kind == Kind::Null {
            return self.null(scanner, name, rule, key);
        }
        match rule {
            Rule::Model => self.model(scanner),
            Rule::Messages => {
                let chat = messages::check(scanner, self.rules.messages, self.rules.remote_images)?;
                self.text += chat.text;
                self.tokens += u64::from(chat.messages) * MESSAGE_TOKENS;
                Ok(())
            }
            Rule::Prompt => self.prompt(scanner),
            Rule::Bool => {
                let value = boolean(scanner, name)?;
                self.stream |= name == "stream" && value;
                Ok(())
            }
            Rule::Int(min, max) => integer(scanner, name, min, max).map(drop),
            Rule::Tokens => {
                let max = self.rules.max_tokens.map_or(i64::from(u32::MAX), i64::from);
                let slot = usize::from(name == "max_completion_tokens");
                let value = integer(scanner, name, 1, max)?;
                if let Some(place) = self.max_tokens.get_mut(slot) {
                    *place = Some(value);
                }
                Ok(())
            }
            Rule::TopK => {
                let max = self.rules.vocabulary.map_or(TOP_K, |size| i64::from(size).saturating_sub(1));
                integer(scanner, name, 0, max).map(drop)
            }
            Rule::Number(min, max, least) => number(scanner, name, min, max, least, false),
            Rule::Float(min, max) => number(scanner, name, min, max, 0.0, true),
            Rule::Stop => stop(scanner),
            Rule::Bias => self.bias(scanner),
            Rule::StreamOptions => self.stream_options(scanner, key),
            Rule::Tools => self.tools(scanner),
            Rule::TemplateArguments => {
                self.text += template_arguments(scanner)?;
                Ok(())
            }
            Rule::Refused(why) => {
                Err(Refusal::invalid(Some(name), format!("'{name}' is not accepted here: {why}")))
            }
        }
    }

    fn null(
        &mut self,
        scanner: &mut Scanner<'_>,
        name: &str,
        rule: Rule,
        key: &Text<'_>,
    ) -> Result<(), Refusal> {
        if matches!(rule, Rule::Messages | Rule::Prompt) {
            return Err(wrong(name, "something else", Kind::Null));
        }
        scanner.word()?;
        self.edits.push(Edit::neutral(key));
        Ok(())
    }

    fn model(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        let text = expect_string(scanner, "model")?;
        let name = text.decoded();
        if self.rules.accepted.iter().any(|accepted| *accepted == name) || self.rules.served == name {
            self.named = true;
            self.edits.push(Edit::Model(text.span));
            return Ok(());
        }
        Err(Refusal::unknown_model(&name, self.rules.accepted))
    }

    fn prompt(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        let kind = scanner.kind()?;
        if kind != Kind::String {
            // A list is taken for a pair of texts by the tokenizer, and ends the generation thread.
            return Err(wrong("prompt", "one string", kind));
        }
        let text = scanner.string()?;
        if text.decoded().trim().is_empty() {
            return Err(Refusal::invalid(Some("prompt"), "'prompt' must not be empty".to_owned()));
        }
        self.text += text.length();
        Ok(())
    }

    fn bias(&self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        const NAME: &str = "logit_bias";
        expect(scanner, NAME, Kind::Object, "an object of token numbers and weights")?;
        scanner.enter()?;
        let (mut first, mut count) = (true, 0);
        while let Some(key) = scanner.member(&mut first)? {
            let Some(size) = self.rules.vocabulary else {
                let why =
                    "'logit_bias' is not accepted: the size of the model's vocabulary is not known here";
                return Err(Refusal::invalid(Some(NAME), why.to_owned()));
            };
            let token =
                key.raw.bytes().all(|byte| byte.is_ascii_digit()).then(|| key.raw.parse::<u32>().ok());
            if token.flatten().is_none_or(|token| token >= size) {
                let why =
                    format!("a key of 'logit_bias' must be a token from 0 to {}", size.saturating_sub(1));
                return Err(Refusal::invalid(Some(NAME), why));
            }
            number(scanner, NAME, -100.0, 100.0, 0.0, false)?;
            count += 1;
            if count > BIASES {
                return Err(Refusal::invalid(Some(NAME), format!("'{NAME}' may have {BIASES} entries")));
            }
        }
        Ok(())
    }

    fn stream_options(&mut self, scanner: &mut Scanner<'_>, key: &Text<'_>) -> Result<(), Refusal> {
        const NAME: &str = "stream_options";
        expect(scanner, NAME, Kind::Object, "an object")?;
        scanner.enter()?;
        let (mut first, mut usage) = (true, false);
        while let Some(option) = scanner.member(&mut first)? {
            if option.decoded() == "include_usage" {
                boolean(scanner, "stream_options.include_usage")?;
                usage = true;
            } else {
                scanner.skip()?;
            }
        }
        if !usage {
            // The server reads `include_usage` without asking whether it is there.
            self.edits.push(Edit::neutral(key));
        }
        Ok(())
    }

    fn tools(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        expect(scanner, "tools", Kind::Array, "an array of objects")?;
        scanner.enter()?;
        let mut first = true;
        while scanner.item(&mut first)? {
            expect(scanner, "tools", Kind::Object, "an array of objects")?;
            self.text += scanner.skip()?;
        }
        Ok(())
    }

    /// Holds an estimate of the prompt and the answer against the context. The exact count needs the tokenizer; this one
    /// is low, but leaves out nothing that a chat template writes except pictures.
    fn fits(&self) -> Result<(), Refusal> {
        let Some(context) = self.rules.context.map(u64::from) else { return Ok(()) };
        let [old, new] = self.max_tokens;
        let asked = new.or(old).and_then(|tokens| u64::try_from(tokens).ok());
        let answer = asked.unwrap_or(u64::from(self.rules.default_tokens));
        let prompt = self.text.div_ceil(BYTES_PER_TOKEN) + self.tokens;
        if prompt.saturating_add(answer) <= context {
            return Ok(());
        }
        Err(Refusal {
            code: "context_length_exceeded",
            ..Refusal::invalid(
                Some(if answer > context { "max_tokens" } else { "messages" }),
                format!(
                    "about {prompt} tokens of prompt and {answer} of answer are more than the context of {context}"
                ),
            )
        })
    }
}

fn stop(scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
    let one = |scanner: &mut Scanner<'_>| {
        let text = expect_string(scanner, "stop")?;
        if text.raw.len() > STOP_BYTES {
            let why = format!("a string of 'stop' may have {STOP_BYTES} bytes");
            return Err(Refusal::invalid(Some("stop"), why));
        }
        Ok(())
    };
    match scanner.kind()? {
        Kind::String => one(scanner),
        Kind::Array => {
            scanner.enter()?;
            let (mut first, mut count) = (true, 0);
            while scanner.item(&mut first)? {
                one(scanner)?;
                count += 1;
                if count > STOPS {
                    return Err(Refusal::invalid(Some("stop"), format!("'stop' may have {STOPS} strings")));
                }
            }
            Ok(())
        }
        other => Err(wrong("stop", "a string or an array of strings", other)),
    }
}

/// Returns the bytes of their values.
fn template_arguments(scanner: &mut Scanner<'_>) -> Result<u64, Refusal> {
    const NAME: &str = "chat_template_kwargs";
    expect(scanner, NAME, Kind::Object, "an object")?;
    scanner.enter()?;
    let (mut first, mut text) = (true, 0);
    while let Some(key) = scanner.member(&mut first)? {
        let name = key.decoded();
        let field = format!("{NAME}.{name}");
        if !TEMPLATE_VARIABLES.contains(&name.as_ref()) {
            let why = format!(
                "'{field}' is not accepted here; template variables that are: {}",
                TEMPLATE_VARIABLES.join(", ")
            );
            return Err(Refusal::invalid(Some(&field), why));
        }
        text += scanner.skip()?;
    }
    Ok(text)
}
