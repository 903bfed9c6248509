//! What a request's body may say. Pure: a body and rules in, a list of changes or a refusal out.

use std::collections::BTreeSet;

use super::fields::{FIELDS, Rule};
use super::json::{Fault, Kind, Scanner, Text};
use super::messages;
use super::rewrite::{DEFAULT_MODEL, Edit};
use super::room::Room;
use super::rules::{Endpoint, Rules};
use super::template;
use super::unread::{self, Probabilities, Tools};
use super::value::{boolean, expect, expect_string, integer, number, object, wrong};
use crate::gate::wire::Refusal;
use crate::registry::Preset;

/// A body that may go to the server once these edits are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub edits: Vec<Edit>,
    /// Whether the answer is a stream.
    pub stream: bool,
}

/// Maximum number of stop strings, and bytes of each: the server builds an automaton from them in Python, which delays
/// everyone's tokens.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;
/// Maximum number of entries in `logit_bias`.
const BIASES: usize = 1024;
/// Largest `top_k` if the vocabulary is unknown: no published tokenizer has fewer than 256 tokens, one per byte.
const TOP_K: i64 = 255;

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::invalid(None, format!("the body is not valid JSON: {} at byte {}", fault.what, fault.at))
    }
}

/// Checks the whole body.
///
/// # Errors
/// 400 with the field's name, or 404 for another model.
pub(crate) fn validate(body: &[u8], endpoint: Endpoint, rules: &Rules<'_>) -> Result<Accepted, Refusal> {
    let mut scanner = object(body)?;
    let start = scanner.position();
    let mut check = Check {
        rules,
        edits: Vec::new(),
        stream: false,
        room: Room::default(),
        tools: Tools::default(),
        probabilities: Probabilities::default(),
        named: false,
        preset: None,
        given: Vec::new(),
    };
    let (mut first, mut seen, mut given) = (true, 0_u128, false);
    let input = if endpoint == Endpoint::Chat { "messages" } else { "prompt" };
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
        given |= *field == input;
        check.field(&mut scanner, field, *rule, &key)?;
    }
    scanner.end()?;
    if !given {
        return Err(Refusal::invalid(Some(input), format!("'{input}' is missing")));
    }
    let Check { mut edits, stream, mut room, tools, probabilities, named, preset, given, .. } = check;
    probabilities.check(stream)?;
    if !named {
        edits.push(Edit::Insert(start));
    }
    match tools.dropped() {
        Some(key) => edits.push(Edit::Neutral(key)),
        None => room.text += tools.text,
    }
    edits.extend(room.edits(rules, preset.and_then(|preset| preset.set.max_tokens), start, input)?);
    edits.extend(preset.into_iter().flat_map(|preset| put_in(preset, &given, rules, start)));
    Ok(Accepted { edits, stream })
}

/// The values of a preset that the request does not set, except for the length of the answer: see [`Room`].
fn put_in(preset: &Preset, given: &[&'static str], rules: &Rules<'_>, start: usize) -> Vec<Edit> {
    let missing = preset.set.values().into_iter();
    let missing = missing.filter(|(name, _)| *name != "max_tokens" && !given.contains(name));
    missing
        .map(|(name, value)| match (name, value.as_i64()) {
            ("top_k", Some(value)) => Edit::Preset(start, name, value.min(top_k(rules)).to_string()),
            _ => Edit::Preset(start, name, value.to_string()),
        })
        .collect()
}

/// The largest `top_k`: a larger one ends the generation thread.
fn top_k(rules: &Rules<'_>) -> i64 {
    rules.vocabulary.map_or(TOP_K, |size| i64::from(size).saturating_sub(1))
}

struct Check<'r> {
    rules: &'r Rules<'r>,
    edits: Vec<Edit>,
    stream: bool,
    room: Room,
    tools: Tools,
    probabilities: Probabilities,
    named: bool,
    preset: Option<&'r Preset>,
    /// Sampling values that the request sets.
    given: Vec<&'static str>,
}

impl Check<'_> {
    fn field(
        &mut self,
        scanner: &mut Scanner<'_>,
        name: &'static str,
        rule: Rule,
        key: &Text<'_>,
    ) -> Result<(), Refusal> {
        let kind = scanner.kind()?;
        if kind == Kind::Null {
            return self.null(scanner, name, rule, key);
        }
        if !self.rules.presets.is_empty() && matches!(rule, Rule::Number(..) | Rule::TopK) {
            self.given.push(name);
        }
        match rule {
            Rule::Model => self.model(scanner),
            Rule::Messages => {
                let chat = messages::check(scanner, self.rules.messages, self.rules.remote_images)?;
                self.room.text += chat.text;
                self.room.messages = chat.messages;
                Ok(())
            }
            Rule::Prompt => self.prompt(scanner),
            Rule::Bool => {
                let value = boolean(scanner, name)?;
                self.stream |= name == "stream" && value;
                self.probabilities.wanted |= name == "logprobs" && value;
                Ok(())
            }
            Rule::Int(min, max) => {
                let value = integer(scanner, name, min, max)?;
                self.probabilities.alternatives |= name == "top_logprobs" && value > 0;
                Ok(())
            }
            Rule::Tokens => self.room.ask(scanner, name),
            Rule::TopK => integer(scanner, name, 0, top_k(self.rules)).map(drop),
            Rule::Number(min, max, least) => number(scanner, name, min, max, least, false),
            Rule::Float(min, max) => number(scanner, name, min, max, 0.0, true),
            Rule::Stop => stop(scanner),
            Rule::Bias => self.bias(scanner),
            Rule::StreamOptions => self.stream_options(scanner, key),
            Rule::Tools => self.tools.read(scanner, key),
            Rule::ToolChoice => self.tools.choice(scanner),
            Rule::TemplateArguments => {
                self.room.text += template_arguments(scanner, self.rules.variables)?;
                Ok(())
            }
            Rule::ResponseFormat => unread::response_format(scanner),
            Rule::Modalities => unread::modalities(scanner),
            Rule::Only(allowed, advice) => unread::only(scanner, name, allowed, advice),
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
            return Err(wrong(name, "given", Kind::Null));
        }
        scanner.word()?;
        self.edits.push(Edit::neutral(key));
        Ok(())
    }

    fn model(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        let text = expect_string(scanner, "model")?;
        let name = text.decoded();
        let known = |accepted: &String| accepted.eq_ignore_ascii_case(&name);
        // Clients made for mlx_lm.server send its own name for its only model.
        if self.rules.accepted.iter().any(known) || name.eq_ignore_ascii_case(DEFAULT_MODEL) {
            self.named = true;
            self.preset = self.rules.presets.iter().find(|preset| preset.name.eq_ignore_ascii_case(&name));
            self.edits.push(Edit::Model(text.span));
            return Ok(());
        }
        Err(Refusal::unknown_model(&name, self.rules.accepted))
    }

    fn prompt(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        let kind = scanner.kind()?;
        let text = match kind {
            Kind::String => scanner.string()?,
            Kind::Array => self.only_prompt(scanner)?,
            _ => return Err(wrong("prompt", "one string", kind)),
        };
        if text.is_blank() {
            return Err(no_prompt());
        }
        self.room.text += text.length();
        Ok(())
    }

    /// The string of a list with one item. The tokenizer would take the list for a pair of texts, and end the
    /// generation thread: its brackets are cut.
    fn only_prompt<'a>(&mut self, scanner: &mut Scanner<'a>) -> Result<Text<'a>, Refusal> {
        let start = scanner.position();
        scanner.enter()?;
        let mut first = true;
        if !scanner.item(&mut first)? {
            return Err(no_prompt());
        }
        let text = match scanner.kind()? {
            Kind::String => scanner.string()?,
            Kind::Number | Kind::Array => {
                let why = "a 'prompt' of token numbers is not accepted; send the text itself, as a string";
                return Err(Refusal::invalid(Some("prompt"), why.to_owned()));
            }
            other => return Err(wrong("prompt", "one string", other)),
        };
        if scanner.item(&mut first)? {
            let why = "a 'prompt' of several strings is not accepted; send one request per prompt";
            return Err(Refusal::invalid(Some("prompt"), why.to_owned()));
        }
        self.edits.push(Edit::Cut(start..text.span.start));
        self.edits.push(Edit::Cut(text.span.end..scanner.position()));
        Ok(text)
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
                return Err(Refusal::invalid(
                    Some(NAME),
                    format!("'{NAME}' may have at most {BIASES} entries"),
                ));
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
            if option.decoded() == "include_usage" && scanner.kind()? != Kind::Null {
                boolean(scanner, "stream_options.include_usage")?;
                usage = true;
            } else {
                scanner.skip()?;
            }
        }
        if !usage {
            // The server reads `include_usage` without checking that it is there.
            self.edits.push(Edit::neutral(key));
        }
        Ok(())
    }
}

fn no_prompt() -> Refusal {
    Refusal::invalid(Some("prompt"), "'prompt' must not be empty".to_owned())
}

fn stop(scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
    let one = |scanner: &mut Scanner<'_>| {
        let text = expect_string(scanner, "stop")?;
        if text.raw.len() > STOP_BYTES {
            let why = format!("a string of 'stop' may have at most {STOP_BYTES} bytes");
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
                    return Err(Refusal::invalid(
                        Some("stop"),
                        format!("'stop' may have at most {STOPS} strings"),
                    ));
                }
            }
            Ok(())
        }
        other => Err(wrong("stop", "a string or an array of strings", other)),
    }
}

/// Returns how many bytes their values take.
fn template_arguments(
    scanner: &mut Scanner<'_>,
    variables: Option<&BTreeSet<String>>,
) -> Result<u64, Refusal> {
    const NAME: &str = "chat_template_kwargs";
    expect(scanner, NAME, Kind::Object, "an object")?;
    scanner.enter()?;
    let (mut first, mut text) = (true, 0);
    while let Some(key) = scanner.member(&mut first)? {
        let name = key.decoded();
        if !template::passes(&name, variables) {
            let field = format!("{NAME}.{name}");
            let passing: Vec<_> = template::passing(variables).into_iter().collect();
            let why = format!(
                "'{field}' is not accepted here; template variables that are: {}",
                passing.join(", ")
            );
            return Err(Refusal::invalid(Some(&field), why));
        }
        text += scanner.skip()?;
    }
    Ok(text)
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
