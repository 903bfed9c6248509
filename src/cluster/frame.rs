//! The messages between a conductor and its ranks, over the standard streams of `mlx.launch`.
//!
//! Every rank gets everything that is sent down. On the way up, `mlx.launch` interleaves the ranks' output, and a
//! terminal (`ssh -tt`) may echo what goes down. So each frame has a mark and a checksum, torn ones are skipped, and
//! nothing important is sent only once: a beat carries the whole state.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::link::Thread;
use crate::host::Exit;
use crate::registry::Wired;

/// Begins a frame: ASCII's record separator, which programs do not print.
const MARK: u8 = 0x1e;

/// Length of the checksum, hexadecimal digits.
const CHECKSUM: usize = 8;

/// Messages from a rank to the conductor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "up", rename_all = "snake_case")]
pub(crate) enum Up {
    Beat(Beat),
    Log {
        rank: usize,
        line: String,
    },
    /// The last message: its Python has ended, and the rank is about to.
    Gone(Gone),
}

/// Longest line of a rank's output, characters; the rest is cut off.
pub(crate) const LONGEST_LINE: usize = 1500;

/// The whole state of a rank, once per heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub rank: usize,
    pub version: String,
    /// pid of its Python, once started.
    pub pid: Option<i32>,
    pub footprint: Option<u64>,
    /// CPU time of its Python, milliseconds.
    pub cpu_ms: Option<u64>,
    /// Where `mlx_lm.server` listens; only rank 0 has one.
    pub port: Option<u16>,
    pub thread: Thread,
    /// The last error of a dead generation thread.
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    pub rank: usize,
    pub why: Why,
    /// How its Python ended, if it had one.
    pub exit: Option<Exit>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// By the conductor, a signal, or a closed connection.
    Asked,
    /// The conductor was silent for too long.
    Silence,
    Died,
    /// Why it could not start Python.
    Obstacle(String),
}

/// Messages from the conductor to all ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "down", rename_all = "snake_case")]
pub(crate) enum Down {
    /// Sign of life of the conductor.
    Beat,
    /// Start Python. Only the first order counts.
    Order(Box<Order>),
    /// Empty MLX's buffer cache.
    Trim,
    End,
}

/// How to start a rank's Python. Paths are the same on every host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub model: String,
    pub generation: u64,
    pub run: PathBuf,
    pub python: PathBuf,
    pub arguments: Vec<String>,
    /// Variables in addition to the host's own.
    pub env: Vec<(String, String)>,
    /// Requests without it get 403.
    pub secret: String,
    /// Limit of MLX's buffer cache, bytes.
    pub cache_limit: Option<u64>,
    /// Limit of the prompt cache, bytes.
    pub prompt_cache_bytes: Option<u64>,
    /// How much memory MLX wires for the GPU.
    #[serde(default)]
    pub wired: Wired,
    pub heartbeat_ms: u64,
    pub timeout_ms: u64,
}

/// One frame with its newline. Pure ASCII: `mlx.launch` drops bytes of characters that a read splits.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    use std::fmt::Write;
    // Cannot fail: our messages have only string keys.
    let json = serde_json::to_string(message).unwrap_or_default();
    let mut text = String::with_capacity(json.len() + CHECKSUM + 2);
    for unit in json.chars() {
        if unit.is_ascii() {
            text.push(unit);
        } else {
            for half in unit.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{half:04x}");
            }
        }
    }
    let mut frame = vec![MARK];
    frame.extend(format!("{:08x}", checksum(text.as_bytes())).into_bytes());
    frame.extend(text.into_bytes());
    frame.push(b'\n');
    frame
}

/// The complete message in a line, if there is one. Anything before the last mark is a torn frame.
pub(crate) fn decode<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let start = memchr::memrchr(MARK, line)? + 1;
    let frame = line.get(start..)?.trim_ascii_end();
    let (sum, json) = frame.split_at_checked(CHECKSUM)?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (sum == checksum(json)).then(|| serde_json::from_slice(json).ok())?
}

/// FNV-1a with 32 bits: detects accidents, not attacks.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(rank: usize, line: &str) -> Up {
        Up::Log { rank, line: line.to_owned() }
    }

    #[test]
    fn what_is_said_is_heard_over_a_terminal_too() {
        for message in [log(1, "naïve 日本 🎉 \u{1e}"), Up::Gone(gone())] {
            let frame = encode(&message);
            assert!(frame.is_ascii());
            assert_eq!(decode::<Up>(&frame), Some(message.clone()));
            let mut line = frame[..frame.len() - 1].to_vec();
            line.extend_from_slice(b"\r\n");
            assert_eq!(decode::<Up>(&line), Some(message));
        }
    }

    #[test]
    fn a_torn_frame_is_passed_over_and_the_whole_one_in_it_is_heard() {
        let (first, second) = (encode(&log(0, "one")), encode(&log(1, "two")));
        let mixed = [&first[..9], &second, &first[9..]].concat();
        let heard: Vec<_> = mixed.split_inclusive(|byte| *byte == b'\n').map(decode::<Up>).collect();
        assert_eq!(heard, [Some(log(1, "two")), None]);
        let mut changed = first.clone();
        changed[20] ^= 1;
        assert_eq!(decode::<Up>(&changed), None);
        assert_eq!(decode::<Up>(b"/tmp/tmp.x\n"), None);
        assert_eq!(decode::<Up>(&encode(&Down::Beat)), None, "an echo of what went down is nothing");
    }

    fn gone() -> Gone {
        Gone { rank: 1, why: Why::Died, exit: Some(Exit::Signal(9)), error: None }
    }
}
