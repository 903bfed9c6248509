//! The history: what happened and why, a JSON object a line, across supervisors.
//!
//! Bounded: at [`LARGEST`] bytes the file moves to `events.1.jsonl` and a new one begins. A full disk costs
//! events, never the supervisor.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;

use crate::api::EventRecord;

/// Size at which the file is put aside; together with the one put aside it holds some 10,000 events.
const LARGEST: u64 = 1_000_000;

/// What every reader of JSON can count up to (RFC 8259, section 6).
const LARGEST_NUMBER: u64 = 1 << 53;

/// How many are kept at hand for those who ask.
const AT_HAND: usize = 256;

/// The open history.
#[derive(Debug)]
pub struct Journal {
    file: PathBuf,
    seq: u64,
    size: u64,
    recent: VecDeque<EventRecord>,
    /// The file's last line was cut when a writer died: the next one needs a line of its own.
    cut: bool,
    /// Lines that could not be written yet, the newest [`AT_HAND`] of them.
    unwritten: VecDeque<Vec<u8>>,
    problem: Option<String>,
}

impl Journal {
    /// Opens the history in `state`, going on from its last number. What cannot be read is said, not fatal.
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

    /// Lines that are no event (a cut write, a later version's, a number that nobody can count up to) are passed over.
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

    /// Writes one event: one `write` of one line to a file opened for appending. What cannot be written is kept and
    /// comes before the next one.
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

    /// Writes what could not be written before.
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
                // A part of the line may have found room.
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

    /// Of those at hand: the first `limit` after number `after`, or the newest `limit`. Oldest first.
    pub fn after(&self, after: Option<u64>, limit: usize) -> Vec<EventRecord> {
        match after {
            Some(seq) => self.recent.iter().filter(|record| record.seq > seq).take(limit).cloned().collect(),
            None => self.recent.iter().skip(self.recent.len().saturating_sub(limit)).cloned().collect(),
        }
    }

    /// Why the last event was not written, if it was not.
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
    fn numbers_go_on_across_supervisors_and_cut_lines_are_passed_over() {
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
    fn a_history_of_version_1_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let old = include_str!("../../../tests/fixtures/state-v1/events.jsonl");
        std::fs::write(folder.path().join("events.jsonl"), old).unwrap();
        let mut journal = Journal::open(folder.path());
        assert_eq!(journal.after(None, 9).len(), 2);
        assert_eq!(note(&mut journal, "a"), 43);
    }

    #[test]
    fn the_history_is_bounded_and_loses_the_oldest_only() {
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
    fn a_history_that_cannot_be_written_is_said_and_stops_nothing() {
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
        assert_eq!(found, ["a", "b"], "what could not be written was written later, once");
    }
}
