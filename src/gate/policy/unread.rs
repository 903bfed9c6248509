//! Fields that `mlx_lm.server` does not read although they should change its answer. Without an error, a client would
//! take the answer for what it asked for.

use std::ops::Range;

use super::fields::NOT_CONSTRAINED;
use super::json::{Kind, Scanner, Text};
use super::value::{expect, expect_string};
use crate::gate::wire::Refusal;

fn unsupported(name: &str, supported: &str, advice: &str) -> Refusal {
    Refusal::invalid(Some(name), format!("'{name}' other than {supported} is not supported: {advice}"))
}

/// Accepts one of the `allowed` values, written exactly so.
pub(crate) fn only(
    scanner: &mut Scanner<'_>,
    name: &str,
    allowed: &[&str],
    advice: &str,
) -> Result<(), Refusal> {
    if allowed.contains(&scanner.raw()?) {
        return Ok(());
    }
    Err(unsupported(name, allowed.first().unwrap_or(&"nothing"), advice))
}

pub(crate) fn response_format(scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
    const NAME: &str = "response_format";
    expect(scanner, NAME, Kind::Object, "an object")?;
    scanner.enter()?;
    let (mut first, mut text) = (true, false);
    while let Some(key) = scanner.member(&mut first)? {
        if key.decoded() != "type" {
            scanner.skip()?;
            continue;
        }
        text = expect_string(scanner, "response_format.type")?.decoded() == "text";
        if !text {
            break;
        }
    }
    if text {
        return Ok(());
    }
    Err(unsupported(NAME, "{\"type\": \"text\"}", NOT_CONSTRAINED))
}

pub(crate) fn modalities(scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
    const NAME: &str = "modalities";
    expect(scanner, NAME, Kind::Array, "an array of strings")?;
    scanner.enter()?;
    let mut first = true;
    while scanner.item(&mut first)? {
        if expect_string(scanner, NAME)?.decoded() != "text" {
            return Err(unsupported(NAME, "[\"text\"]", "answers are text"));
        }
    }
    Ok(())
}

/// Tools, and whether they may be called. The server offers them to the model whatever `tool_choice` says.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// Bytes that become part of the prompt.
    pub text: u64,
    key: Option<Range<usize>>,
    none: bool,
}

impl Tools {
    pub(crate) fn read(&mut self, scanner: &mut Scanner<'_>, key: &Text<'_>) -> Result<(), Refusal> {
        expect(scanner, "tools", Kind::Array, "an array of objects")?;
        self.key = Some(key.span.clone());
        scanner.enter()?;
        let mut first = true;
        while scanner.item(&mut first)? {
            expect(scanner, "tools", Kind::Object, "an array of objects")?;
            self.text += scanner.skip()?;
        }
        Ok(())
    }

    pub(crate) fn choice(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        let refusal = || {
            let advice = "the model decides whether it calls a tool; send only the tools that it may call";
            unsupported("tool_choice", "\"auto\" and \"none\"", advice)
        };
        if scanner.kind()? != Kind::String {
            return Err(refusal());
        }
        match scanner.string()?.decoded().as_ref() {
            "auto" => Ok(()),
            "none" => {
                self.none = true;
                Ok(())
            }
            _ => Err(refusal()),
        }
    }

    /// The key of tools that must not be called, which is hidden: then the model knows of none.
    pub(crate) fn dropped(&self) -> Option<Range<usize>> {
        self.key.clone().filter(|_| self.none)
    }
}

/// Which probabilities of tokens a request asks for.
#[derive(Debug, Default)]
pub(crate) struct Probabilities {
    /// Whether it has `logprobs: true`.
    pub wanted: bool,
    /// Whether its `top_logprobs` is 1 or more.
    pub alternatives: bool,
}

impl Probabilities {
    /// The server writes none into a stream, and without alternatives it omits the tokens that they belong to.
    pub(crate) fn check(&self, stream: bool) -> Result<(), Refusal> {
        let name = if self.wanted { "logprobs" } else { "top_logprobs" };
        if stream && (self.wanted || self.alternatives) {
            let why = format!("'{name}' is not supported in a stream; send \"stream\": false");
            return Err(Refusal::invalid(Some(name), why));
        }
        if self.wanted && !self.alternatives {
            let why = "'logprobs' is supported only with 'top_logprobs' from 1 to 11".to_owned();
            return Err(Refusal::invalid(Some(name), why));
        }
        Ok(())
    }
}
