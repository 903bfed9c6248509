//! Parses request heads, strictly: whatever two parsers could read differently is refused, because that is what request
//! smuggling exploits. Nothing of a client's head goes to the backend.

use std::ops::Range;
use std::time::Duration;

use super::refusal::{Refusal, shown};

/// Maximum size of a head, in bytes.
pub(crate) const HEAD_BYTES: usize = 16 * 1024;
/// Maximum number of header lines per request.
pub(super) const HEADERS: usize = 64;

/// How a request's body is delimited (RFC 9112, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    /// The value of `Content-Length`, in bytes.
    Length(u64),
    Chunked,
}

/// The methods that some path accepts, and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Options,
    Other,
}

impl Method {
    /// The method as the access log shows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Options => "OPTIONS",
            Self::Other => "OTHER",
        }
    }
}

/// A parsed head; ranges index the bytes that it was parsed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the head, with any empty lines before it and the one that ends it.
    pub length: usize,
    pub method: Method,
    /// Path of the target, without query and fragment.
    pub path: Range<usize>,
    /// Whether the connection stays open after this request.
    pub keep_alive: bool,
    /// Whether the answer may be chunked (HTTP/1.1).
    pub chunks: bool,
    pub framing: Framing,
    /// Whether the client waits for `100 Continue`.
    pub expects: bool,
    /// How long the client is willing to wait for a model that is loading: `Prefer: wait=…` (RFC 7240).
    pub wait: Option<Duration>,
    pub host: Option<Range<usize>>,
    pub origin: Option<Range<usize>>,
    pub authorization: Option<Range<usize>>,
    /// `Access-Control-Request-Headers` of a preflight request (CORS).
    pub wanted_headers: Option<Range<usize>>,
}

/// Bytes of empty lines before a request, which are ignored (RFC 9112, section 2.2).
pub(crate) fn empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count() * 2
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
}

/// Parses a request target: a path, or a whole URL, as sent by clients that take the gate for a proxy.
fn target(text: &str) -> Result<Target<'_>, Refusal> {
    let (authority, rest) = match text.split_once("://") {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
        {
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            if authority.is_empty() || authority.contains('@') {
                return Err(bad("the request's target does not name a host"));
            }
            (Some(authority), path)
        }
        _ if text.starts_with('/') => (None, text),
        _ => return Err(bad("the request's target must be a path")),
    };
    Ok(Target { authority, path: rest.split(['?', '#']).next().unwrap_or_default() })
}

impl Head {
    /// Parses the head at the start of `bytes`; `None` if it is incomplete.
    ///
    /// # Errors
    /// 400, 415, 417, 431, 501 or 505; the connection must close after the answer, since the start of the next request
    /// is unknown.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let before = empty_lines(bytes);
        let text = bytes.get(before..).unwrap_or_default();
        line_ends(text)?;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(text) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES => before + length,
            Ok(httparse::Status::Partial) if text.len() < HEAD_BYTES => return Ok(None),
            Ok(_) => return Err(head_too_large()),
            Err(httparse::Error::TooManyHeaders) => return Err(head_too_large()),
            Err(httparse::Error::Version) => {
                return Err(Refusal::new(505, "http_version", "only HTTP/1.0 and HTTP/1.1 are supported"));
            }
            Err(error) => return Err(bad(format!("the request's head is not valid HTTP: {error}"))),
        };
        let http11 = request.version == Some(1);
        let Target { authority, path } = target(request.path.unwrap_or_default())?;
        let method = match request.method.unwrap_or_default() {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        };
        let mut head = Self {
            length,
            method,
            path: within(bytes, path.as_bytes()),
            keep_alive: http11,
            chunks: http11,
            framing: Framing::None,
            expects: false,
            wait: None,
            host: None,
            origin: None,
            authorization: None,
            wanted_headers: None,
        };
        for header in request.headers.iter() {
            head.header(bytes, header, http11)?;
        }
        if http11 && head.host.is_none() {
            return Err(bad("the header 'Host' is missing"));
        }
        if let Some(authority) = authority {
            // It takes precedence over `Host` (RFC 9112, section 3.2.2).
            head.host = Some(within(bytes, authority.as_bytes()));
        }
        Ok(Some(head))
    }

    fn header(&mut self, bytes: &[u8], header: &httparse::Header<'_>, http11: bool) -> Result<(), Refusal> {
        let value = header.value.trim_ascii();
        if value.iter().any(|byte| *byte < b' ' && *byte != b'\t' || *byte == 0x7f) {
            return Err(bad(format!("the header '{}' contains a control character", shown(header.name))));
        }
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // Compare lengths first: most headers match none of these.
        match header.name.len() {
            4 if is("host") => once(&mut self.host, bytes, value, "Host"),
            6 if is("origin") => once(&mut self.origin, bytes, value, "Origin"),
            6 if is("prefer") => {
                // If a preference is given twice, the first counts.
                self.wait = self.wait.or_else(|| preferred_wait(value));
                Ok(())
            }
            6 if is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::new(417, "expectation", "only 'Expect: 100-continue' is supported"));
                }
                self.expects = http11;
                Ok(())
            }
            7 if is("upgrade") => Ok(()),
            10 if is("connection") => {
                let mut tokens = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                if tokens.any(|token| token.eq_ignore_ascii_case(b"close")) {
                    self.keep_alive = false;
                }
                Ok(())
            }
            13 if is("authorization") => once(&mut self.authorization, bytes, value, "Authorization"),
            14 if is("content-length") => self.content_length(value),
            16 if is("content-encoding") => {
                if value.eq_ignore_ascii_case(b"identity") {
                    return Ok(());
                }
                Err(Refusal::new(415, "content_encoding", "bodies must come without a content encoding"))
            }
            17 if is("transfer-encoding") => self.transfer_encoding(value, http11),
            30 if is("access-control-request-headers") => {
                once(&mut self.wanted_headers, bytes, value, "Access-Control-Request-Headers")
            }
            _ => Ok(()),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.framing != Framing::None {
            return Err(bad("the length of the body is given twice"));
        }
        let digits = std::str::from_utf8(value).unwrap_or_default();
        if digits.is_empty() || digits.len() > 18 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad("'Content-Length' is not a number"));
        }
        self.framing = Framing::Length(digits.parse().unwrap_or(u64::MAX));
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8], http11: bool) -> Result<(), Refusal> {
        if self.framing != Framing::None {
            return Err(bad("the length of the body is given twice"));
        }
        if !http11 {
            return Err(bad("'Transfer-Encoding' is not valid in HTTP/1.0"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::new(
                501,
                "transfer_encoding",
                "'chunked' is the only supported transfer encoding",
            ));
        }
        self.framing = Framing::Chunked;
        Ok(())
    }
}

/// `wait` from a list of preferences; unknown ones are ignored (RFC 7240, section 2).
fn preferred_wait(value: &[u8]) -> Option<Duration> {
    let list = std::str::from_utf8(value).ok()?;
    list.split(',').find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse::<u32>().ok()?;
        name.trim().eq_ignore_ascii_case("wait").then(|| Duration::from_secs(seconds.into()))
    })
}

/// Checks that the head's lines end in CR LF: parsers disagree about a bare CR or LF.
fn line_ends(bytes: &[u8]) -> Result<(), Refusal> {
    let mut before = 0;
    for at in memchr::memchr2_iter(b'\r', b'\n', bytes) {
        match bytes.get(at) {
            Some(b'\r') => match bytes.get(at + 1) {
                Some(b'\n') | None => {}
                Some(_) => return Err(bad("a bare CR in the request's head")),
            },
            _ if at == 0 || bytes.get(at - 1) != Some(&b'\r') => {
                return Err(bad("a bare LF in the request's head"));
            }
            _ => {
                if at == before + 1 {
                    // The empty line that ends the head.
                    return if at == 1 { Err(bad("the request begins with an empty line")) } else { Ok(()) };
                }
                before = at + 1;
            }
        }
    }
    Ok(())
}

fn once(place: &mut Option<Range<usize>>, bytes: &[u8], value: &[u8], name: &str) -> Result<(), Refusal> {
    if place.is_some() {
        return Err(bad(format!("the header '{name}' is given twice")));
    }
    *place = Some(within(bytes, value));
    Ok(())
}

/// The range of `part`, a subslice of `whole`, within it.
fn within(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start + part.len()
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(400, "bad_http", message)
}

pub(crate) fn head_too_large() -> Refusal {
    let message = format!("the request's head has more than {} KiB or {HEADERS} headers", HEAD_BYTES / 1024);
    Refusal::new(431, "head_too_large", message)
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
