//! Answers that the gate writes itself, and the head of those that it passes on.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;

/// An answer that the gate writes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub status: u16,
    headers: String,
    body: Vec<u8>,
}

/// What every answer to one request carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope<'a> {
    /// The value of the header `x-request-id`.
    pub id: &'a str,
    /// The origin that may read the answer, if a browser sent one.
    pub origin: Option<&'a str>,
    /// Whether the connection closes after it.
    pub close: bool,
    /// Whether the body is left out, as for `HEAD`.
    pub head_only: bool,
    /// The granted `Prefer: wait`, in seconds (RFC 7240).
    pub waits: Option<u64>,
}

impl Reply {
    pub(crate) fn json(status: u16, document: &serde_json::Value) -> Self {
        let mut body = document.to_string().into_bytes();
        body.push(b'\n');
        Self { status, headers: "content-type: application/json\r\n".to_owned(), body }
    }

    /// 204 without a body, for a preflight request.
    pub(crate) fn empty() -> Self {
        Self { status: 204, headers: String::new(), body: Vec::new() }
    }

    /// Replaces the body with another document.
    pub(crate) fn replace_body(&mut self, document: &serde_json::Value) {
        self.body = Self::json(self.status, document).body;
    }

    /// Adds a header; `value` must not contain line breaks.
    pub(crate) fn header(&mut self, name: &str, value: &str) {
        let _ = write!(self.headers, "{name}: {value}\r\n");
    }

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

/// The status line and the headers of every answer, without the empty line that ends the head.
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

/// Passes the value of `Date` to `with`; it is formatted once per second.
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

/// A date in the format of RFC 9110, section 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
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

/// Appends `content-length` and the empty line that ends the head.
pub(crate) fn end_head(head: &mut String, length: usize) {
    for part in ["content-length: ", itoa::Buffer::new().format(length), "\r\n\r\n"] {
        head.push_str(part);
    }
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()).unwrap_or("Status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_format_of_rfc_9110() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(1_709_251_199), "Thu, 29 Feb 2024 23:59:59 GMT");
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        with_date(at(784_111_777), |date| assert!(date.ends_with(":37 GMT")));
        with_date(at(784_111_778), |date| assert!(date.ends_with(":38 GMT")));
    }
}
