//! The contents and the format of a line of the access log.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::gate::wire::Usage;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Line<'a> {
    pub client: Option<IpAddr>,
    pub key: Option<&'a str>,
    pub id: &'a str,
    pub method: &'a str,
    /// The path requested, without the query.
    pub path: &'a str,
    /// HTTP status; 0 if there was no answer.
    pub status: u16,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    pub usage: Usage,
    /// Time spent waiting for its turn and for the model.
    pub waited: Duration,
    pub first_token: Option<Duration>,
    /// From the request's head to the end of its answer.
    pub total: Duration,
    /// How often it was sent to a backend.
    pub attempts: u32,
    /// How it ended: `ok`, `client_gone`, `cut`, or the error's code.
    pub outcome: &'a str,
}

/// Writes the time of a line; the part that changes once per second is cached.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: u64,
    /// RFC 3339 up to the decimal point, exclusive.
    text: String,
}

impl Stamp {
    pub(super) fn write(&mut self, now: SystemTime, out: &mut Vec<u8>) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text = humantime::format_rfc3339_seconds(now).to_string();
            self.text.truncate(self.text.len().saturating_sub(1));
        }
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'.');
        padded(out, since.subsec_millis());
        out.extend_from_slice(b"Z ");
    }
}

/// Appends `number`, below 1000, with three digits.
fn padded(out: &mut Vec<u8>, number: u32) {
    for place in [100, 10, 1] {
        let digit = u8::try_from(number / place % 10).unwrap_or_default();
        out.push(b'0' + digit);
    }
}

impl Line<'_> {
    /// Appends parts instead of using `write!`, which would take a sixth of the time that the gate spends on a request.
    pub(super) fn format(&self, out: &mut Vec<u8>) {
        match self.client {
            Some(IpAddr::V4(client)) => {
                for (place, octet) in client.octets().into_iter().enumerate() {
                    if place > 0 {
                        out.push(b'.');
                    }
                    number(out, octet.into());
                }
            }
            // Rare, so not worth code of its own.
            Some(client @ IpAddr::V6(_)) => out.extend_from_slice(client.to_string().as_bytes()),
            None => out.push(b'-'),
        }
        for word in [self.key.unwrap_or("-"), self.id, self.method] {
            out.push(b' ');
            out.extend_from_slice(word.as_bytes());
        }
        out.push(b' ');
        plain(out, self.path);
        out.push(b' ');
        number(out, self.status.into());
        for (name, value) in [
            (" in=", self.received),
            (" out=", self.sent),
            (" prompt=", self.usage.prompt),
            (" cached=", self.usage.cached),
            (" tokens=", self.usage.answer),
        ] {
            out.extend_from_slice(name.as_bytes());
            number(out, value);
        }
        out.extend_from_slice(b" wait=");
        number(out, u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX));
        out.extend_from_slice(b"ms");
        if let Some(first) = self.first_token {
            out.extend_from_slice(b" first=");
            tenths(out, first);
        }
        out.extend_from_slice(b" total=");
        tenths(out, self.total);
        out.extend_from_slice(b" sent=");
        number(out, self.attempts.into());
        out.push(b' ');
        out.extend_from_slice(self.outcome.as_bytes());
        out.push(b'\n');
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `time` in milliseconds with one decimal.
fn tenths(out: &mut Vec<u8>, time: Duration) {
    let tenths = u64::try_from(time.as_micros() / 100).unwrap_or(u64::MAX);
    number(out, tenths / 10);
    out.push(b'.');
    number(out, tenths % 10);
    out.extend_from_slice(b"ms");
}

/// Appends a client's text without anything that could pass for another field or line.
fn plain(out: &mut Vec<u8>, text: &str) {
    out.extend(text.chars().take(128).map(|char| match u8::try_from(char) {
        Ok(byte) if byte.is_ascii_graphic() => byte,
        _ => b'?',
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fields_in_order_and_the_time_with_its_milliseconds() {
        let mut out = Vec::new();
        let mut stamp = Stamp::default();
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        stamp.write(at(1_700_000_000_007), &mut out);
        stamp.write(at(1_700_000_000_999), &mut out);
        stamp.write(at(1_700_000_001_000), &mut out);
        Line {
            client: Some(IpAddr::from([192, 168, 132, 9])),
            key: Some("gateway"),
            id: "req-1",
            method: "POST",
            path: "/v1/chat/completions",
            status: 200,
            received: 10,
            sent: 2048,
            usage: Usage { prompt: 9, cached: 8, answer: 7 },
            waited: Duration::from_micros(2_900),
            first_token: Some(Duration::from_micros(12_345)),
            total: Duration::from_micros(1_000_040),
            attempts: 1,
            outcome: "ok",
        }
        .format(&mut out);
        Line { client: Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])), ..Line::default() }.format(&mut out);
        let text = "2023-11-14T22:13:20.007Z 2023-11-14T22:13:20.999Z 2023-11-14T22:13:21.000Z \
            192.168.132.9 gateway req-1 POST /v1/chat/completions 200 in=10 out=2048 prompt=9 cached=8 tokens=7 wait=2ms \
            first=12.3ms total=1000.0ms sent=1 ok\n\
            ::1 -    0 in=0 out=0 prompt=0 cached=0 tokens=0 wait=0ms total=0.0ms sent=0 \n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn a_path_cannot_forge_a_line() {
        let mut out = Vec::new();
        Line { path: "/a b\r\n2026 forged", id: "r1", method: "GET", outcome: "ok", ..Line::default() }
            .format(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains(" /a?b??2026?forged 0 "), "{text}");
    }
}
