//! What a chat may contain: the right shape, and no address that the server would fetch.

use super::json::{Kind, Scanner, Text};
use super::value::{expect, expect_string, string_at, wrong};
use crate::gate::wire::Refusal;

/// Maximum size of one image in a request, in bytes of base64.
pub(crate) const IMAGE_BYTES: usize = 16 << 20;

/// A chat that may go to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chat {
    /// Bytes that become part of the prompt; images do not count.
    pub text: u64,
    pub messages: u32,
}

/// Checks the array of messages.
///
/// # Errors
/// 400 with the path of the field.
pub(crate) fn check(scanner: &mut Scanner<'_>, most: u32, remote_images: bool) -> Result<Chat, Refusal> {
    expect(scanner, "messages", Kind::Array, "an array of messages")?;
    scanner.enter()?;
    let mut walk = Walk { text: 0, remote_images, message: 0 };
    let (mut first, mut count) = (true, 0_u32);
    while scanner.item(&mut first)? {
        walk.message = count;
        count = count.saturating_add(1);
        if count > most {
            return Err(Refusal::invalid(
                Some("messages"),
                format!("a chat may have at most {most} messages"),
            ));
        }
        walk.message(scanner)?;
    }
    if count == 0 {
        return Err(Refusal::invalid(Some("messages"), "'messages' must not be empty".to_owned()));
    }
    Ok(Chat { text: walk.text, messages: count })
}

struct Walk {
    text: u64,
    remote_images: bool,
    message: u32,
}

impl Walk {
    fn path(&self, field: &str) -> String {
        format!("messages[{}].{field}", self.message)
    }

    fn message(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        let found = scanner.kind()?;
        if found != Kind::Object {
            return Err(wrong(&format!("messages[{}]", self.message), "an object", found));
        }
        scanner.enter()?;
        let (mut first, mut role) = (true, false);
        while let Some(key) = scanner.member(&mut first)? {
            match key.decoded().as_ref() {
                "role" => {
                    self.text += string_at(scanner, || self.path("role"))?.length();
                    role = true;
                }
                "content" => self.content(scanner)?,
                "tool_calls" => self.tool_calls(scanner)?,
                _ => self.text += scanner.skip()?,
            }
        }
        if role {
            return Ok(());
        }
        let field = self.path("role");
        Err(Refusal::invalid(Some(&field), format!("'{field}' is missing")))
    }

    fn content(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        match scanner.kind()? {
            Kind::Null => Ok(scanner.word().map(drop)?),
            Kind::String => {
                self.text += scanner.string()?.length();
                Ok(())
            }
            Kind::Array => {
                scanner.enter()?;
                let (mut first, mut part) = (true, 0_u32);
                while scanner.item(&mut first)? {
                    self.part(scanner, part)?;
                    part = part.saturating_add(1);
                }
                Ok(())
            }
            other => Err(wrong(&self.path("content"), "a string or an array of parts", other)),
        }
    }

    /// A part is an image if it has either key, whatever its type says: the server reads both.
    fn part(&mut self, scanner: &mut Scanner<'_>, part: u32) -> Result<(), Refusal> {
        let field = |name: &str| format!("messages[{}].content[{part}]{name}", self.message);
        let found = scanner.kind()?;
        if found != Kind::Object {
            return Err(wrong(&field(""), "an object", found));
        }
        scanner.enter()?;
        let (mut first, mut kind) = (true, false);
        while let Some(key) = scanner.member(&mut first)? {
            match key.decoded().as_ref() {
                "type" => {
                    string_at(scanner, || field(".type"))?;
                    kind = true;
                }
                "text" => self.text += string_at(scanner, || field(".text"))?.length(),
                name @ ("image_url" | "image") => {
                    image(scanner, &field(&format!(".{name}")), self.remote_images)?;
                }
                _ => self.text += scanner.skip()?,
            }
        }
        if kind {
            return Ok(());
        }
        Err(Refusal::invalid(Some(&field(".type")), format!("'{}' is missing", field(".type"))))
    }

    fn tool_calls(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Refusal> {
        let found = scanner.kind()?;
        match found {
            Kind::Null => Ok(scanner.word().map(drop)?),
            Kind::Array => {
                let start = scanner.position();
                scanner.enter()?;
                let (mut first, mut call) = (true, 0_u32);
                while scanner.item(&mut first)? {
                    self.tool_call(scanner, call)?;
                    call = call.saturating_add(1);
                }
                self.text += (scanner.position() - start) as u64;
                Ok(())
            }
            other => Err(wrong(&self.path("tool_calls"), "an array of objects", other)),
        }
    }

    fn tool_call(&self, scanner: &mut Scanner<'_>, call: u32) -> Result<(), Refusal> {
        expect(scanner, &self.path("tool_calls"), Kind::Object, "an array of objects")?;
        scanner.enter()?;
        let mut first = true;
        while let Some(key) = scanner.member(&mut first)? {
            if key.decoded() != "function" || scanner.kind()? == Kind::Null {
                scanner.skip()?;
                continue;
            }
            let field = || self.path(&format!("tool_calls[{call}].function"));
            match scanner.kind()? {
                Kind::Object => called(scanner, || format!("{}.arguments", field()))?,
                other => return Err(wrong(&field(), "an object", other)),
            }
        }
        Ok(())
    }
}

/// Checks the function of a call. The server parses `arguments` as JSON and fails on anything else.
fn called(scanner: &mut Scanner<'_>, field: impl Fn() -> String) -> Result<(), Refusal> {
    scanner.enter()?;
    let mut first = true;
    while let Some(key) = scanner.member(&mut first)? {
        if key.decoded() != "arguments" || scanner.kind()? != Kind::String {
            scanner.skip()?;
            continue;
        }
        let arguments = scanner.string()?.decoded();
        if arguments.is_empty() {
            continue;
        }
        let mut inner = Scanner::new(arguments.as_bytes())?;
        if let Err(fault) = inner.skip().and_then(|_| inner.end()) {
            let field = field();
            let why = format!(
                "'{field}' is not valid JSON: {} at byte {}; if the call was cut off, send \"{{}}\" or leave the call out",
                fault.what, fault.at
            );
            return Err(Refusal::invalid(Some(&field), why));
        }
    }
    Ok(())
}

fn image(scanner: &mut Scanner<'_>, field: &str, remote: bool) -> Result<(), Refusal> {
    match scanner.kind()? {
        Kind::Null => Ok(scanner.word().map(drop)?),
        Kind::String => address(&scanner.string()?, field, remote),
        Kind::Object => {
            scanner.enter()?;
            let mut first = true;
            while let Some(key) = scanner.member(&mut first)? {
                if key.decoded() == "url" {
                    let name = format!("{field}.url");
                    address(&expect_string(scanner, &name)?, &name, remote)?;
                } else {
                    scanner.skip()?;
                }
            }
            Ok(())
        }
        other => Err(wrong(field, "a string or an object", other)),
    }
}

fn address(url: &Text<'_>, field: &str, remote: bool) -> Result<(), Refusal> {
    if url.raw.len() > IMAGE_BYTES {
        let why = format!("'{field}' may have at most {} MiB", IMAGE_BYTES >> 20);
        return Err(Refusal::invalid(Some(field), why));
    }
    let text = url.decoded();
    if text.starts_with("data:") || (remote && (text.starts_with("https://") || text.starts_with("http://")))
    {
        return Ok(());
    }
    let why = format!("'{field}' must be a data URL: this server fetches nothing on behalf of a client");
    Err(Refusal::invalid(Some(field), why))
}
