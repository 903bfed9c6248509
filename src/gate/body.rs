//! The chunks of a request's body, read strictly: an extension or a trailer is refused, since the next reader
//! might understand it differently.

use super::error::Refusal;

/// Takes a chunked body apart as it comes.
#[derive(Debug, Default)]
pub struct Chunks {
    /// What was read so far.
    pub body: Vec<u8>,
    left: u64,
    expect: Expect,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Expect {
    #[default]
    Size,
    Data,
    LineEnd,
    LastLineEnd,
}

/// Hexadecimal digits of a chunk's size.
const DIGITS: usize = 8;

impl Chunks {
    /// Takes from the front of `bytes`; `Some(n)`: the body is complete and `n` bytes were its.
    /// `None`: all of `bytes` but what is left in `rest` was taken.
    ///
    /// # Errors
    /// 400 for what is no chunk, 413 for more than `limit` bytes.
    pub fn take(&mut self, bytes: &mut Vec<u8>, limit: u64) -> Result<bool, Refusal> {
        let mut at = 0;
        let done = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            match self.expect {
                Expect::Size => {
                    let Some((size, used)) = size_line(rest)? else { break false };
                    at += used;
                    if size.saturating_add(self.body.len() as u64) > limit {
                        return Err(too_large(limit));
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

fn size_line(bytes: &[u8]) -> Result<Option<(u64, usize)>, Refusal> {
    let digits = bytes.iter().take(DIGITS + 1).take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits > DIGITS {
        return Err(bad());
    }
    match bytes.get(digits..).unwrap_or_default() {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] if digits > 0 => {
            let text =
                bytes.get(..digits).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
            Ok(Some((u64::from_str_radix(text, 16).map_err(|_| bad())?, digits + 2)))
        }
        _ => Err(bad()),
    }
}

fn bad() -> Refusal {
    Refusal::new(
        400,
        "bad_http",
        "the chunks of the body are not valid (extensions and trailers are not taken)",
    )
}

/// 413, with the limit.
#[must_use]
pub fn too_large(limit: u64) -> Refusal {
    Refusal::new(413, "body_too_large", format!("the body is larger than {}", crate::units::Bytes(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together_wherever_they_are_cut() {
        let text = b"4\r\nabcd\r\n0A\r\n0123456789\r\n0\r\n\r\nGET";
        for size in 1..text.len() {
            let (mut chunks, mut buffer, mut done) = (Chunks::default(), Vec::new(), false);
            for part in text.chunks(size) {
                buffer.extend_from_slice(part);
                done = done || chunks.take(&mut buffer, 100).unwrap();
            }
            assert!(done);
            assert_eq!(
                (chunks.body.as_slice(), buffer.as_slice()),
                (&b"abcd0123456789"[..], &b"GET"[..]),
                "{size}"
            );
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        for text in [
            "4;x=y\r\nabcd\r\n",
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
}
