//! What a conductor and its ranks say to each other over the standard streams of `mlx.launch`.
//!
//! Down, every rank hears everything. Up, `mlx.launch` mixes the ranks' output in pieces, and a terminal (`ssh -tt`)
//! may echo what goes down; so each frame has a mark and a checksum, a torn one is passed over, and nothing is said
//! only once that matters: a beat carries the whole state.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::link::Thread;
use crate::host::Exit;
use crate::registry::Wired;

/// Begins a frame; no text that a program prints has it.
const MARK: u8 = 0x1e;

/// Digits of the checksum.
const CHECKSUM: usize = 8;

/// From a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "up", rename_all = "snake_case")]
pub(crate) enum Up {
    /// It lives, and is as it says.
    Beat(Beat),
    Log {
        rank: usize,
        /// At most [`LONGEST_LINE`] characters.
        line: String,
    },
    /// Its Python is gone, and it is about to be.
    Gone(Gone),
}

/// The longest line of a rank's output that is passed on, characters.
pub(crate) const LONGEST_LINE: usize = 1500;

/// A rank's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub rank: usize,
    /// Of its `mlxctl`.
    pub version: String,
    /// Of its Python, once there is one.
    pub pid: Option<i32>,
    pub footprint: Option<u64>,
    /// CPU time that Python has used, milliseconds.
    pub cpu_ms: Option<u64>,
    /// Where `mlx_lm.server` listens; rank 0 alone.
    pub port: Option<u16>,
    pub thread: Thread,
    /// The last error of a dead generation thread.
    pub error: Option<String>,
}

/// How a rank ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    pub rank: usize,
    pub why: Why,
    /// How its Python ended, if it had one.
    pub exit: Option<Exit>,
    pub error: Option<String>,
}

/// What made a rank end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// The conductor said so, a signal did, or the connection was closed.
    Asked,
    /// Nothing was heard of the conductor for too long.
    Silence,
    Died,
    /// It could not start Python: why.
    Obstacle(String),
}

/// To all ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "down", rename_all = "snake_case")]
pub(crate) enum Down {
    /// The conductor lives.
    Beat,
    /// Start Python. The first one counts.
    Order(Box<Order>),
    /// Have MLX's buffer cache emptied.
    Trim,
    End,
}

/// What a rank's Python is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub model: String,
    pub generation: u64,
    /// The run folder, on every host.
    pub run: PathBuf,
    /// The interpreter, on every host.
    pub python: PathBuf,
    pub arguments: Vec<String>,
    /// Variables beside the host's own.
    pub env: Vec<(String, String)>,
    /// Requests without it are answered 403.
    pub secret: String,
    /// Bound of MLX's buffer cache, bytes.
    pub cache_limit: Option<u64>,
    /// Bound of the prompt cache, bytes.
    pub prompt_cache_bytes: Option<u64>,
    /// What MLX pins for the GPU.
    #[serde(default)]
    pub wired: Wired,
    /// See [`crate::backend::group::Group`].
    pub heartbeat_ms: u64,
    /// See [`crate::backend::group::Group`].
    pub timeout_ms: u64,
}

/// One frame, with its line's end. ASCII alone: `mlx.launch` drops bytes of characters that a read cuts.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    use std::fmt::Write;
    // Our own messages have string keys and no other way to fail.
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

/// The message of a line, if it has a whole one: what stands before the last mark is a torn frame's beginning.
pub(crate) fn decode<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let start = memchr::memrchr(MARK, line)? + 1;
    let frame = line.get(start..)?.trim_ascii_end();
    let (sum, json) = frame.split_at_checked(CHECKSUM)?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (sum == checksum(json)).then(|| serde_json::from_slice(json).ok())?
}

/// FNV-1a, 32 bits: against accidents, not against people.
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
