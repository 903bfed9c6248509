//! Chunked bodies. Those of requests are read strictly: extensions are skipped, trailers are refused, since another
//! parser might read them differently.

use super::refusal::Refusal;

/// Decodes a chunked body as it arrives.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    pub body: Vec<u8>,
    left: u64,
    expect: Expect,
    /// Bytes of extensions so far; limited to [`EXTENSIONS`].
    extensions: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Expect {
    #[default]
    Size,
    Data,
    LineEnd,
    LastLineEnd,
}

/// Maximum number of hexadecimal digits in a chunk's size.
const DIGITS: usize = 8;
/// Maximum bytes of extensions in one chunk, and in all chunks of a body.
const EXTENSION: usize = 256;
const EXTENSIONS: usize = 16 * 1024;

impl Chunks {
    /// Moves data from the front of `bytes` to `body`; `true` once the body is complete. What follows it stays in
    /// `bytes`.
    ///
    /// # Errors
    /// 400 for an invalid chunk, 413 for a body of more than `limit` bytes.
    pub(crate) fn take(&mut self, bytes: &mut Vec<u8>, limit: u64) -> Result<bool, Refusal> {
        let mut at = 0;
        let done = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            match self.expect {
                Expect::Size => {
                    let Some(line) = read_size_line(rest)? else { break false };
                    let size = line.size;
                    at += line.bytes;
                    self.extensions += line.extension;
                    if self.extensions > EXTENSIONS {
                        return Err(bad());
                    }
                    if size.saturating_add(self.body.len() as u64) > limit {
                        return Err(body_too_large(limit));
                    }
                    self.left = size;
                    self.expect = if size == 0 { Expect::LastLineEnd } else { Expect::Data };
                }
                Expect::Data => {
                    let count = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                    self.body.extend_from_slice(rest.get(..count).unwrap_or_default());
                    at += count;
                    self.left -= count as u64;
                    if self.left > 0 {
                        break false;
                    }
                    self.expect = Expect::LineEnd;
                }
                Expect::LineEnd | Expect::LastLineEnd => {
                    match rest {
                        [b'\r', b'\n', ..] => at += 2,
                        [] | [b'\r'] => break false,
                        _ => return Err(bad()),
                    }
                    if self.expect == Expect::LastLineEnd {
                        break true;
                    }
                    self.expect = Expect::Size;
                }
            }
        };
        bytes.drain(..at.min(bytes.len()));
        Ok(done)
    }
}

struct SizeLine {
    size: u64,
    /// Bytes of the line, its CR LF included.
    bytes: usize,
    /// Bytes of the extension, from its `;` on.
    extension: usize,
}

fn read_size_line(bytes: &[u8]) -> Result<Option<SizeLine>, Refusal> {
    let digits = bytes.iter().take(DIGITS + 1).take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits > DIGITS {
        return Err(bad());
    }
    let rest = bytes.get(digits..).unwrap_or_default();
    let extension = match rest.first() {
        Some(b';') if digits > 0 => {
            let plain = |byte: &&u8| **byte >= b' ' && **byte != 0x7f || **byte == b'\t';
            rest.iter().take(EXTENSION + 1).take_while(plain).count()
        }
        _ => 0,
    };
    if extension > EXTENSION {
        return Err(bad());
    }
    match rest.get(extension..).unwrap_or_default() {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] if digits > 0 => {
            let text =
                bytes.get(..digits).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
            let size = u64::from_str_radix(text, 16).map_err(|_| bad())?;
            Ok(Some(SizeLine { size, bytes: digits + extension + 2, extension }))
        }
        _ => Err(bad()),
    }
}

fn bad() -> Refusal {
    Refusal::new(400, "bad_http", "the chunks of the body are not valid (trailers are not accepted)")
}

/// 413, with `limit` (bytes) in the message.
pub(crate) fn body_too_large(limit: u64) -> Refusal {
    Refusal::new(413, "body_too_large", format!("the body is larger than {}", crate::units::Bytes(limit)))
}

/// The chunk of size 0 that ends a body.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// `count` in hexadecimal and CR LF, right-aligned, and how many bytes of the array that takes.
pub(crate) fn size_line(mut count: usize) -> ([u8; 10], usize) {
    let mut line = *b"        \r\n";
    let mut used = 2;
    loop {
        let digit = b"0123456789abcdef".get(count & 15).copied().unwrap_or(b'0');
        used += 1;
        let at = line.len() - used;
        if let Some(place) = line.get_mut(at) {
            *place = digit;
        }
        count >>= 4;
        if count == 0 || used == line.len() {
            return (line, used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the body is complete, the body, and what follows it, for reads of `size` bytes.
    fn decoded(text: &[u8], size: usize) -> (bool, Vec<u8>, Vec<u8>) {
        let (mut chunks, mut buffer, mut done) = (Chunks::default(), Vec::new(), false);
        for part in text.chunks(size) {
            buffer.extend_from_slice(part);
            done = done || chunks.take(&mut buffer, 100).unwrap();
        }
        (done, chunks.body, buffer)
    }

    #[test]
    fn chunks_are_joined_wherever_reads_split_them() {
        let text = b"4\r\nabcd\r\n0A\r\n0123456789\r\n0\r\n\r\nGET";
        for size in 1..text.len() {
            assert_eq!(decoded(text, size), (true, b"abcd0123456789".to_vec(), b"GET".to_vec()), "{size}");
        }
    }

    #[test]
    fn extensions_are_skipped_within_bounds() {
        let text = b"4;a=b;c=\"d e\"\r\nabcd\r\n0;x\r\n\r\nGET";
        for size in 1..text.len() {
            assert_eq!(decoded(text, size), (true, b"abcd".to_vec(), b"GET".to_vec()), "{size}");
        }
        let long = |bytes: usize| format!("1;{}\r\na\r\n", "x".repeat(bytes - 1));
        let take = |text: String| Chunks::default().take(&mut text.into_bytes(), 1000);
        assert_eq!(take(long(EXTENSION)), Ok(false));
        assert_eq!(take(long(EXTENSION + 1)).unwrap_err().status, 400);
        assert_eq!(take(long(EXTENSION).repeat(EXTENSIONS / EXTENSION)), Ok(false));
        assert_eq!(take(long(EXTENSION).repeat(EXTENSIONS / EXTENSION + 1)).unwrap_err().status, 400);
    }

    #[test]
    fn bad_chunks_are_refused() {
        for text in [
            "4 ;x=y\r\nabcd\r\n",
            "4;x\ny\r\nabcd\r\n",
            "4;x\ry\r\nabcd\r\n",
            "4;x=\"\r\n\"\r\nabcd\r\n",
            "4;x=\0\r\nabcd\r\n",
            ";x=y\r\nabcd\r\n",
            "4\nabcd\n",
            "4\rabcd",
            "-4\r\n",
            "0x4\r\n",
            " 4\r\n",
            "4 \r\n",
            "\r\n",
            "4\r\nabcde\r\n",
            "123456789\r\n",
            "0\r\nTrailer: x\r\n\r\n",
            "g\r\n",
        ] {
            let mut bytes = text.as_bytes().to_vec();
            assert_eq!(Chunks::default().take(&mut bytes, 100).unwrap_err().status, 400, "{text:?}");
        }
        let mut bytes = b"ffffffff\r\n".to_vec();
        assert_eq!(Chunks::default().take(&mut bytes, 100).unwrap_err().status, 413);
    }

    #[test]
    fn sizes_are_written_in_hexadecimal_with_a_line_end() {
        for count in [1, 9, 10, 15, 16, 255, 4096, 65_536, 0xffff_ffff] {
            let (line, used) = size_line(count);
            assert_eq!(line[line.len() - used..], *format!("{count:x}\r\n").as_bytes());
        }
    }
}
