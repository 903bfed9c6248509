//! The end of a file that others write to, and what they add to it.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use fs_err::File;

/// How much is read at once, bytes.
const BLOCK: u64 = 64 * 1024;

/// A log that may be truncated, or moved away and recreated.
pub(crate) struct Tail {
    pub path: PathBuf,
    file: Option<File>,
}

impl Tail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    fn open(&mut self) -> io::Result<()> {
        self.file = Some(File::open(&self.path)?);
        Ok(())
    }

    /// Opens it at the beginning of the last `lines` lines.
    ///
    /// # Errors
    /// The system's own; `NotFound` if there is no file yet, which [`Self::catch_up`] waits for.
    pub(crate) fn open_at_last(&mut self, lines: usize) -> io::Result<()> {
        self.open()?;
        let Some(file) = &mut self.file else { return Ok(()) };
        let start = start_of_last(file, lines)?;
        file.seek(SeekFrom::Start(start)).map(drop)
    }

    /// The next block that is there; `None`: that was all, for now.
    pub(crate) fn block(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.by_ref().take(BLOCK).read_to_end(&mut bytes)?;
        Ok((read > 0).then_some(bytes))
    }

    /// Continues at the right place: at the start if the file was truncated or replaced by a new one. A replaced
    /// file is read to its end first, because lines may have been added before it was moved away.
    pub(crate) fn catch_up(&mut self) -> io::Result<()> {
        let there = match std::fs::metadata(&self.path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(file) = &mut self.file else { return self.open() };
        let (ours, position) = (file.metadata()?, file.stream_position()?);
        if ours.len() < position {
            file.seek(SeekFrom::Start(0))?;
        } else if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) && ours.len() == position {
            return self.open();
        }
        Ok(())
    }
}

/// Where the last `lines` lines begin; reads backwards from the end, no more than it must.
fn start_of_last(file: &mut (impl Read + Seek), lines: usize) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut block = Vec::new();
    let mut from = end;
    while from > 0 {
        let to = from;
        from = to.saturating_sub(BLOCK);
        block.clear();
        file.seek(SeekFrom::Start(from))?;
        file.by_ref().take(to - from).read_to_end(&mut block)?;
        for at in memchr::memrchr_iter(b'\n', &block) {
            let after = from + at as u64 + 1;
            // The newline at the end of the file does not begin a line.
            if after < end {
                found += 1;
            }
            if found == lines {
                return Ok(after);
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write};
    use std::path::Path;

    fn last(text: &str, lines: usize) -> String {
        let mut file = Cursor::new(text.as_bytes());
        let start = start_of_last(&mut file, lines).unwrap();
        text[usize::try_from(start).unwrap()..].to_owned()
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        assert_eq!(last("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last("a\nb\nc", 2), "b\nc");
        assert_eq!(last("a\n\n\n", 2), "\n\n");
        assert_eq!(last("a\nb\n", 9), "a\nb\n");
        assert_eq!(last("a\nb\n", 0), "");
        assert_eq!(last("", 3), "");
        let long = format!("{}\n{}\nend\n", "x".repeat(200_000), "y".repeat(100_000));
        assert_eq!(last(&long, 2), format!("{}\nend\n", "y".repeat(100_000)));
        assert_eq!(last(&long, 3), long);
    }

    fn unread(tail: &mut Tail) -> String {
        let mut text = String::new();
        tail.file.as_mut().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn append(path: &Path, text: &str) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_log_that_was_moved_away_is_read_to_its_end_before_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("32b.log");
        let mut tail = Tail::new(path.clone());
        tail.catch_up().unwrap();
        assert!(tail.file.is_none());
        append(&path, "one\n");
        tail.catch_up().unwrap();
        assert_eq!(unread(&mut tail), "one\n");
        append(&path, "late\n");
        std::fs::rename(&path, folder.path().join("32b.log.1")).unwrap();
        append(&path, "two\n");
        tail.catch_up().unwrap();
        assert_eq!(unread(&mut tail), "late\n");
        tail.catch_up().unwrap();
        assert_eq!(unread(&mut tail), "two\n");
    }

    #[test]
    fn a_log_that_was_truncated_is_read_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("32b.log");
        append(&path, "a long first line\n");
        let mut tail = Tail::new(path.clone());
        tail.open().unwrap();
        assert_eq!(unread(&mut tail), "a long first line\n");
        std::fs::write(&path, "").unwrap();
        append(&path, "new\n");
        tail.catch_up().unwrap();
        assert_eq!(unread(&mut tail), "new\n");
    }
}
