//! The history: what happened and why, one JSON object per line, across supervisors.
//!
//! Bounded: at [`LARGEST`] bytes the file moves to `events.1.jsonl` and a new one begins. A full disk costs events, never
//! the supervisor.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;

use crate::api::EventRecord;

/// Size at which the file is rotated, bytes; with the rotated one it holds some 10,000 events.
const LARGEST: u64 = 1_000_000;

/// Largest integer that every JSON reader handles exactly (RFC 8259, section 6).
const LARGEST_NUMBER: u64 = 1 << 53;

/// Number of events kept in memory for queries.
const AT_HAND: usize = 256;

/// The open history of one state folder.
#[derive(Debug)]
pub struct Journal {
    file: PathBuf,
    seq: u64,
    size: u64,
    recent: VecDeque<EventRecord>,
    /// Whether the file ends in a partial line, so that the next event must start a new one.
    cut: bool,
    /// Lines not written yet, at most the newest [`AT_HAND`].
    unwritten: VecDeque<Vec<u8>>,
    problem: Option<String>,
}

impl Journal {
    /// Opens the history in `state` and continues its numbers. A file that cannot be read is a [`Journal::problem`].
    pub fn open(state: &Path) -> Self {
        let file = state.join("events.jsonl");
        let mut journal = Self {
            file,
            seq: 0,
            size: 0,
            recent: VecDeque::new(),
            cut: false,
            unwritten: VecDeque::new(),
            problem: None,
        };
        for name in ["events.1.jsonl", "events.jsonl"] {
            let path = state.join(name);
            match fs::read(&path) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    journal.size = bytes.len() as u64;
                    journal.cut = !text.is_empty() && !text.ends_with('\n');
                    journal.take_in(&text);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => journal.size = 0,
                Err(error) => journal.problem = Some(format!("the history cannot be read: {error}")),
            }
        }
        journal
    }

    /// Skips lines that are not events: partial ones, those of a later version, and numbers too large to count on from.
    fn take_in(&mut self, text: &str) {
        let records = text.lines().filter_map(|line| serde_json::from_str::<EventRecord>(line).ok());
        for record in records.filter(|record| record.seq < LARGEST_NUMBER) {
            self.seq = self.seq.max(record.seq);
            self.keep(record);
        }
    }

    fn keep(&mut self, record: EventRecord) {
        if self.recent.len() == AT_HAND {
            self.recent.pop_front();
        }
        self.recent.push_back(record);
    }

    /// Writes one event, with a single `write` of one line to a file opened for appending. A line that cannot be written is
    /// kept and written before the next one.
    pub fn note(
        &mut self,
        at: SystemTime,
        model: Option<&str>,
        kind: &str,
        text: &str,
        hint: Option<&str>,
    ) -> EventRecord {
        self.seq += 1;
        let record = EventRecord {
            seq: self.seq,
            at: humantime::format_rfc3339_millis(at).to_string(),
            model: model.map(str::to_owned),
            kind: kind.to_owned(),
            text: text.to_owned(),
            hint: hint.map(str::to_owned),
        };
        let mut line = serde_json::to_vec(&record).unwrap_or_default();
        line.push(b'\n');
        if self.unwritten.len() == AT_HAND {
            self.unwritten.pop_front();
        }
        self.unwritten.push_back(line);
        self.catch_up();
        self.keep(record.clone());
        record
    }

    /// Retries lines that could not be written.
    pub fn try_again(&mut self) {
        if !self.unwritten.is_empty() {
            self.catch_up();
        }
    }

    fn catch_up(&mut self) {
        self.problem = None;
        while let Some(line) = self.unwritten.pop_front() {
            if let Err(error) = self.write(&line) {
                self.problem = Some(format!("the history cannot be written: {error}"));
                self.unwritten.push_front(line);
                // Part of the line may have been written.
                let length = fs::metadata(&self.file).map_or(0, |found| found.len());
                self.cut |= length > self.size;
                self.size = length;
                return;
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let line = [if self.cut { &b"\n"[..] } else { &b""[..] }, line].concat();
        if self.size + line.len() as u64 > LARGEST {
            fs::rename(&self.file, self.file.with_file_name("events.1.jsonl"))?;
            self.size = 0;
            crate::durable::sync_folder(self.file.parent().unwrap_or(Path::new(".")))?;
        }
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.file)?;
        file.write_all(&line)?;
        self.size += line.len() as u64;
        self.cut = false;
        Ok(())
    }

    /// Of the events in memory, the first `limit` after number `after`; without it the newest `limit`. Oldest first.
    pub fn after(&self, after: Option<u64>, limit: usize) -> Vec<EventRecord> {
        match after {
            Some(seq) => self.recent.iter().filter(|record| record.seq > seq).take(limit).cloned().collect(),
            None => self.recent.iter().skip(self.recent.len().saturating_sub(limit)).cloned().collect(),
        }
    }

    /// Why the history could not be read or written; `None`: the last write succeeded.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(journal: &mut Journal, text: &str) -> u64 {
        journal.note(SystemTime::UNIX_EPOCH, Some("32b"), "ready", text, None).seq
    }

    #[test]
    fn numbers_continue_across_supervisors_and_partial_lines_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path());
        assert_eq!((note(&mut journal, "a"), note(&mut journal, "b")), (1, 2));
        let path = folder.path().join("events.jsonl");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"seq\":9,\"at\":\"x\",\"mod");
        std::fs::write(&path, text).unwrap();
        assert_eq!(note(&mut Journal::open(folder.path()), "c"), 3);
        let journal = Journal::open(folder.path());
        assert_eq!(journal.after(None, 1)[0].seq, 3);
        assert_eq!(
            journal.after(Some(1), 10).iter().map(|record| record.text.as_str()).collect::<Vec<_>>(),
            ["b", "c"]
        );
    }

    #[test]
    fn a_history_of_version_1_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let old = include_str!("../../../tests/fixtures/state-v1/events.jsonl");
        std::fs::write(folder.path().join("events.jsonl"), old).unwrap();
        let mut journal = Journal::open(folder.path());
        assert_eq!(journal.after(None, 9).len(), 2);
        assert_eq!(note(&mut journal, "a"), 43);
    }

    #[test]
    fn the_history_is_bounded_and_loses_only_the_oldest_events() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path());
        let long = "x".repeat(10_000);
        for _ in 0..350 {
            note(&mut journal, &long);
        }
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size("events.jsonl") <= LARGEST && size("events.1.jsonl") <= LARGEST);
        assert_eq!(Journal::open(folder.path()).after(None, 1)[0].seq, 350);
        assert_eq!(
            journal.after(None, 3).iter().map(|record| record.seq).collect::<Vec<_>>(),
            [348, 349, 350]
        );
    }

    #[test]
    fn a_history_that_cannot_be_written_is_reported_and_catches_up_later() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&folder.path().join("gone"));
        note(&mut journal, "a");
        assert!(journal.problem().unwrap().contains("cannot be written"));
        std::fs::create_dir(folder.path().join("gone")).unwrap();
        journal.try_again();
        assert_eq!(journal.problem(), None);
        note(&mut journal, "b");
        let found = Journal::open(&folder.path().join("gone")).after(None, 10);
        let found: Vec<_> = found.into_iter().map(|record| record.text).collect();
        assert_eq!(found, ["a", "b"], "the failed write was made up for, once");
    }
}
