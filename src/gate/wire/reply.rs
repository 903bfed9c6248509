//! Answers that the gate writes itself, and the head of those that it passes on.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// An answer of the gate's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// HTTP status.
    pub status: u16,
    headers: String,
    body: Vec<u8>,
}

/// What every answer to one request carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope<'a> {
    /// `x-request-id`.
    pub id: &'a str,
    /// The origin that may read it, where a browser asked.
    pub origin: Option<&'a str>,
    /// Whether the connection ends with it.
    pub close: bool,
    /// Whether only the head was asked for.
    pub head_only: bool,
    /// The wait that was asked for and granted, seconds (RFC 7240).
    pub waits: Option<u64>,
}

impl Reply {
    pub(crate) fn json(status: u16, document: &serde_json::Value) -> Self {
        let mut body = document.to_string().into_bytes();
        body.push(b'\n');
        Self { status, headers: "content-type: application/json\r\n".to_owned(), body }
    }

    /// 204.
    pub(crate) fn empty() -> Self {
        Self { status: 204, headers: String::new(), body: Vec::new() }
    }

    /// Puts another document in place of the body.
    pub(crate) fn replace_body(&mut self, document: &serde_json::Value) {
        self.body = Self::json(self.status, document).body;
    }

    /// Adds a header; `value` must have no line ends.
    pub(crate) fn header(&mut self, name: &str, value: &str) {
        let _ = write!(self.headers, "{name}: {value}\r\n");
    }

    /// The bytes to send.
    pub(crate) fn render(&self, envelope: &Envelope<'_>) -> Vec<u8> {
        let mut head = reply_head(self.status, envelope);
        head.push_str(&self.headers);
        if self.status == 204 {
            head.push_str("\r\n");
        } else {
            end_head(&mut head, self.body.len());
        }
        let mut out = head.into_bytes();
        if !envelope.head_only {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

/// The status line and what every answer carries, without the empty line at the end.
pub(crate) fn reply_head(status: u16, envelope: &Envelope<'_>) -> String {
    let mut head = String::with_capacity(320);
    let mut digits = itoa::Buffer::new();
    for part in
        ["HTTP/1.1 ", digits.format(status), " ", reason(status), "\r\nx-request-id: ", envelope.id, "\r\n"]
    {
        head.push_str(part);
    }
    with_date(SystemTime::now(), |date| {
        for part in ["date: ", date, "\r\n"] {
            head.push_str(part);
        }
    });
    if let Some(origin) = envelope.origin {
        let _ = write!(
            head,
            "access-control-allow-origin: {origin}\r\naccess-control-expose-headers: x-request-id, retry-after\r\nvary: origin\r\n"
        );
    }
    if let Some(seconds) = envelope.waits {
        let _ = write!(head, "preference-applied: wait={seconds}\r\n");
    }
    if envelope.close {
        head.push_str("connection: close\r\n");
    }
    head
}

/// Lends the text of `Date`, which is made once a second.
fn with_date(now: SystemTime, with: impl FnOnce(&str)) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    DATE.with_borrow_mut(|(of, text)| {
        if *of != second || text.is_empty() {
            (*of, *text) = (second, http_date(second));
        }
        with(text);
    });
}

/// As RFC 9110, section 5.6.7, wants it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(second: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let month = part(5, 7).parse::<usize>().unwrap_or(1).saturating_sub(1);
    let weekday = usize::try_from(second / 86_400 % 7).unwrap_or_default();
    format!(
        "{}, {} {} {} {} GMT",
        DAYS.get(weekday).unwrap_or(&"Thu"),
        part(8, 10),
        MONTHS.get(month).unwrap_or(&"Jan"),
        part(0, 4),
        part(11, 19)
    )
}

/// The line that tells the length of a body, and the empty one that ends the head.
pub(crate) fn end_head(head: &mut String, length: usize) {
    for part in ["content-length: ", itoa::Buffer::new().format(length), "\r\n\r\n"] {
        head.push_str(part);
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_wants_them() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(1_709_251_199), "Thu, 29 Feb 2024 23:59:59 GMT");
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        with_date(at(784_111_777), |date| assert!(date.ends_with(":37 GMT")));
        with_date(at(784_111_778), |date| assert!(date.ends_with(":38 GMT")));
    }
}
