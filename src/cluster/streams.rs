//! Standard streams that never make their owner wait: each has its own thread.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Most frames that wait to be written; with more, the other end has stopped reading.
const WAITING: usize = 256;

/// Longer lines are split into pieces of this size, bytes.
const LONGEST_LINE: u64 = 64 * 1024;

/// Calls `line` for each line, newline included, and `end` at the end of the stream.
pub(crate) fn read_lines(
    reader: impl Read + Send + 'static,
    mut line: impl FnMut(Vec<u8>) + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) {
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        loop {
            let mut bytes = Vec::new();
            match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes) {
                Ok(1..) => line(bytes),
                Ok(0) | Err(_) => break,
            }
        }
        end();
    });
}

/// Writes frames, and drops those that come faster than the other end reads.
#[derive(Debug)]
pub(crate) struct Writer {
    frames: Option<SyncSender<Vec<u8>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn new(mut output: impl Write + Send + 'static) -> Self {
        let (frames, waiting) = sync_channel::<Vec<u8>>(WAITING);
        let thread = thread::spawn(move || {
            for frame in waiting {
                if output.write_all(&frame).and_then(|()| output.flush()).is_err() {
                    return;
                }
            }
        });
        Self { frames: Some(frames), thread: Some(thread) }
    }

    /// Queues a frame; `false` if it was dropped.
    pub(crate) fn say(&self, frame: Vec<u8>) -> bool {
        let sent = self.frames.as_ref().map(|frames| frames.try_send(frame));
        !matches!(sent, None | Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))))
    }

    /// Closes the stream once everything is written, after at most `limit`.
    pub(crate) fn close(mut self, limit: Duration) {
        self.frames = None;
        let Some(thread) = self.thread.take() else { return };
        let step = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while !thread.is_finished() && waited < limit {
            thread::sleep(step);
            waited += step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn lines_come_whole_and_an_endless_one_in_pieces() {
        let (found, lines) = channel();
        let text = [vec![b'x'; 100_000], b"\nlast".to_vec()].concat();
        read_lines(std::io::Cursor::new(text), move |line| found.send(line.len()).unwrap(), || ());
        assert_eq!(lines.iter().collect::<Vec<_>>(), [65_536, 34_465, 4]);
    }

    #[test]
    fn a_reader_that_stopped_costs_no_time() {
        let (_held, end) =
            nix::unistd::pipe().map(|(read, write)| (read, std::fs::File::from(write))).unwrap();
        let writer = Writer::new(end);
        let taken = (0..2000).filter(|_| writer.say(vec![0; 4096])).count();
        assert!(taken < 2000, "all of 8 MB went into a pipe that nobody reads");
        writer.close(Duration::from_millis(20));
    }
}
