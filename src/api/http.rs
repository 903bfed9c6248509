//! As much of HTTP/1.1 as a client needs that sends one request per connection: for the control socket, and the parts
//! that readers of a backend's answers share with it.

use std::io::{self, BufRead, BufReader, Read, Write};

/// Longest head of an answer, bytes.
pub(crate) const HEAD_MAX: usize = 16 * 1024;
/// Longest size line of a chunk, bytes.
const SIZE_MAX: u64 = 64;

/// Writes one request. `body` is JSON.
pub(crate) fn request(
    stream: &mut impl Write,
    method: &str,
    target: &str,
    body: Option<&[u8]>,
) -> io::Result<()> {
    let mut bytes =
        format!("{method} {target} HTTP/1.1\r\nhost: mlxctl\r\nconnection: close\r\n").into_bytes();
    if let Some(body) = body {
        write!(bytes, "content-type: application/json\r\ncontent-length: {}\r\n", body.len())?;
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.unwrap_or_default());
    stream.write_all(&bytes)?;
    stream.flush()
}

/// A parsed head, and the body, not read yet.
pub(crate) struct Response<R> {
    pub status: u16,
    /// Value of the requested header, if present.
    pub header: Option<String>,
    /// Ends where the framing says; an error if the connection ends before that.
    pub body: Body<R>,
}

/// Reads the head of an answer and keeps one header of it.
///
/// # Errors
/// `InvalidData` if it is not HTTP; the stream's own otherwise.
pub(crate) fn response<R: Read>(stream: R, wanted: &str) -> io::Result<Response<R>> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let room = (HEAD_MAX - head.len()) as u64;
        if reader.by_ref().take(room).read_until(b'\n', &mut head)? == 0 {
            let kind = if room == 0 { io::ErrorKind::InvalidData } else { io::ErrorKind::UnexpectedEof };
            return Err(io::Error::new(kind, "the answer's head does not end"));
        }
    }
    let read: Option<io::Result<_>> =
        with_head(&head, |head| Ok((head.status, head.framing()?, head.value(wanted).map(str::to_owned))))?;
    let (status, framing, header) = read.ok_or(io::ErrorKind::UnexpectedEof)??;
    Ok(Response { status, header, body: Body { reader, framing } })
}

pub(crate) struct Head<'h> {
    /// Its length in bytes, including the empty line.
    pub(crate) bytes: usize,
    pub(crate) status: u16,
    headers: &'h [httparse::Header<'h>],
}

impl Head<'_> {
    /// Value of the first header with this name; `None` also if it is not UTF-8.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    }

    fn framing(&self) -> io::Result<Framing> {
        if self.value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Ok(Framing::Chunked { left: 0, started: false, ended: false });
        }
        let Some(length) = self.value("content-length") else { return Ok(Framing::Close) };
        length.parse().map(Framing::Length).map_err(|_| invalid(format!("content-length `{length}`")))
    }
}

/// Reads a head from the front of `bytes`; `None` if it is incomplete.
///
/// # Errors
/// `InvalidData` if it is not HTTP.
pub(crate) fn with_head<T>(bytes: &[u8], with: impl FnOnce(&Head<'_>) -> T) -> io::Result<Option<T>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(bytes)) => {
            let status = answer.code.unwrap_or_default();
            Ok(Some(with(&Head { bytes, status, headers: answer.headers })))
        }
        Err(error) => Err(invalid(format!("the answer is not valid HTTP: {error}"))),
    }
}

/// Decodes `%2F` to `/` and so on; invalid escapes stay.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        let value = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(value.unwrap_or(byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(crate) struct Body<R> {
    reader: BufReader<R>,
    framing: Framing,
}

enum Framing {
    Length(u64),
    Chunked { left: u64, started: bool, ended: bool },
    Close,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match &mut self.framing {
            Framing::Close => self.reader.read(buffer),
            Framing::Length(left) => part(&mut self.reader, buffer, left),
            Framing::Chunked { left, started, ended } => {
                if *left == 0 && !*ended {
                    *left = chunk_size(&mut self.reader, *started)?;
                    *started = true;
                    *ended = *left == 0;
                }
                part(&mut self.reader, buffer, left)
            }
        }
    }
}

/// Reads at most `left` bytes and subtracts them.
fn part(reader: &mut impl Read, buffer: &mut [u8], left: &mut u64) -> io::Result<usize> {
    if *left == 0 {
        return Ok(0);
    }
    let room = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    let read = reader.read(&mut buffer[..room])?;
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off"));
    }
    *left -= read as u64;
    Ok(read)
}

/// Reads the size line of the next chunk; if `after` another chunk, skips that one's line end first.
fn chunk_size(reader: &mut impl BufRead, after: bool) -> io::Result<u64> {
    let mut line = Vec::new();
    if after {
        reader.take(2).read_until(b'\n', &mut line)?;
        line.clear();
    }
    reader.take(SIZE_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off"));
    }
    let text = String::from_utf8_lossy(&line);
    let digits = text.split(';').next().unwrap_or_default().trim();
    u64::from_str_radix(digits, 16).map_err(|_| invalid(format!("chunk size `{digits}`")))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str) -> io::Result<(u16, Option<String>, String)> {
        let mut found = response(answer.as_bytes(), "X-Schema")?;
        let mut body = String::new();
        found.body.read_to_string(&mut body)?;
        Ok((found.status, found.header, body))
    }

    #[test]
    fn every_framing_gives_the_same_body() {
        for answer in [
            "HTTP/1.1 200 OK\r\nx-schema: 1\r\ncontent-length: 5\r\n\r\nhello and more",
            "HTTP/1.1 200 OK\r\nX-Schema:1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nx-schema: 1\r\n\r\nhello",
        ] {
            assert_eq!(read(answer).unwrap(), (200, Some("1".into()), "hello".into()), "{answer}");
        }
    }

    #[test]
    fn segments_of_a_path_are_decoded_and_never_panic() {
        for (segment, name) in [
            ("70b", "70b"),
            ("a%20b%2Fc", "a b/c"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%e2%82", "\u{fffd}"),
        ] {
            assert_eq!(percent_decode(segment), name, "{segment}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_body_does_not_depend_on_its_chunks(
            chunks in proptest::collection::vec(proptest::collection::vec(0_u8.., 1..300), 0..20),
        ) {
            let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                answer.extend(format!("{:X}\r\n", chunk.len()).bytes());
                answer.extend(chunk);
                answer.extend(b"\r\n");
            }
            answer.extend(b"0\r\n\r\n");
            let mut body = Vec::new();
            response(answer.as_slice(), "x").unwrap().body.read_to_end(&mut body).unwrap();
            proptest::prop_assert_eq!(body, chunks.concat());
        }
    }

    #[test]
    fn a_body_that_was_cut_off_is_an_error() {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\ncontent-le",
            "",
        ] {
            assert_eq!(read(answer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{answer}");
        }
    }

    #[test]
    fn what_is_no_http_is_an_error() {
        for answer in [
            "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(),
            format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(HEAD_MAX)),
        ] {
            assert_eq!(read(&answer).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
