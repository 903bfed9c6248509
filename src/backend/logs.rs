//! A backend's log file. The backend appends to it; the supervisor reads it and rotates it when it is large. The backend
//! keeps writing to the rotated file until it is told to open a new one.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// Rotate a log at this size, bytes; rotated files are cut down to it.
const LARGEST: u64 = 10_000_000;

/// Number of rotated files that are kept.
const KEPT: u32 = 3;

/// Most that is read of a run's output, bytes.
const LONGEST_TAIL: u64 = 64 * 1024;

/// Rotates a large log: `x.log` → `x.log.1` → … → `x.log.3` → deleted. A missing log is not an error.
pub(crate) fn rotate(log: &Path) -> io::Result<()> {
    if !too_large(log) {
        return Ok(());
    }
    for n in (0..KEPT).rev() {
        match fs::rename(numbered(log, n), numbered(log, n + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Cuts rotated files down to their last `LARGEST` bytes. Done in place, since a full disk has no space for a copy. Only
/// for files that are no longer written.
///
/// # Errors
/// The system's; a file may then have some lines twice.
pub(crate) fn trim(log: &Path, first: Aside) -> io::Result<()> {
    for n in first as u32..=KEPT {
        match keep_end(&numbered(log, n), LARGEST) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether [`trim`] has anything to do.
pub(crate) fn oversized(log: &Path, first: Aside) -> bool {
    (first as u32..=KEPT).any(|n| mark(&numbered(log, n)).length > LARGEST)
}

/// Which files of a log are no longer written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aside {
    /// All of them: no process has the log open.
    All = 0,
    /// Only the rotated ones: the log itself may be open.
    Old = 1,
}

/// Cuts a file down to its last `most` bytes, from the start of a line if there is one near.
fn keep_end(file: &Path, most: u64) -> io::Result<()> {
    const BLOCK: u64 = 64 * 1024;
    let mut file = fs::OpenOptions::new().read(true).write(true).open(file)?;
    let end = file.metadata()?.len();
    if end <= most {
        return Ok(());
    }
    let mut block = Vec::new();
    let mut from = end - most;
    file.seek(SeekFrom::Start(from))?;
    Read::by_ref(&mut file).take(BLOCK).read_to_end(&mut block)?;
    from += memchr::memchr(b'\n', &block).map_or(0, |at| at as u64 + 1);
    let mut to = 0;
    while from < end {
        block.clear();
        file.seek(SeekFrom::Start(from))?;
        let read = Read::by_ref(&mut file).take(BLOCK).read_to_end(&mut block)? as u64;
        if read == 0 {
            break;
        }
        file.seek(SeekFrom::Start(to))?;
        file.write_all(&block)?;
        (from, to) = (from + read, to + read);
    }
    file.set_len(to)
}

/// Whether the log has to be rotated.
pub(crate) fn too_large(log: &Path) -> bool {
    mark(log).length >= LARGEST
}

/// The path of a log that was rotated `n` times.
fn numbered(log: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return log.to_owned();
    }
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// A position in a log that stays valid when the log is rotated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    file: u64,
    length: u64,
}

/// The current end of a log; the start of a future one if it is missing.
pub(crate) fn mark(log: &Path) -> Mark {
    fs::metadata(log).map(|found| Mark { file: found.ino(), length: found.len() }).unwrap_or_default()
}

/// What was appended since `start`, up to the last 64 KiB, even if the log was rotated once in between.
pub(crate) fn since(log: &Path, start: Mark) -> String {
    let aside = numbered(log, 1);
    let mut bytes = if start.file != 0 && mark(&aside).file == start.file {
        tail(&aside, start.length).unwrap_or_default()
    } else {
        Vec::new()
    };
    let here = if mark(log).file == start.file { start.length } else { 0 };
    bytes.extend(tail(log, here).unwrap_or_default());
    let first = bytes.len().saturating_sub(usize::try_from(LONGEST_TAIL).unwrap_or(usize::MAX));
    String::from_utf8_lossy(bytes.get(first..).unwrap_or_default()).into_owned()
}

fn tail(log: &Path, start: u64) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(log)?;
    let end = file.seek(SeekFrom::End(0))?;
    // Shorter than before: it was truncated, so all of it is new.
    let start = if end < start { 0 } else { start };
    let start = start.max(end.saturating_sub(LONGEST_TAIL));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::with_capacity(usize::try_from(end - start).unwrap_or_default().saturating_add(1));
    file.take(LONGEST_TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_output_of_one_run_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("m.log");
        let never = mark(&log);
        assert_eq!((never, since(&log, never).as_str()), (Mark::default(), ""));
        std::fs::write(&log, "old\n").unwrap();
        let start = mark(&log);
        std::fs::write(&log, "old\nnew\n").unwrap();
        assert_eq!((since(&log, start).as_str(), since(&log, never).as_str()), ("new\n", "old\nnew\n"));
        std::fs::rename(&log, numbered(&log, 1)).unwrap();
        assert_eq!(since(&log, start), "new\n", "rotated, and nothing new yet");
        std::fs::write(&log, "newer\n").unwrap();
        assert_eq!(since(&log, start), "new\nnewer\n");
        let start = mark(&log);
        std::fs::write(&log, "x\n").unwrap();
        assert_eq!(since(&log, start), "x\n", "after a truncation");
        std::fs::write(&log, vec![b'y'; 1_000_000]).unwrap();
        assert_eq!(since(&log, never).len() as u64, LONGEST_TAIL);
    }

    #[test]
    fn a_burst_is_cut_down_to_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("m.log");
        std::fs::write(&log, "now\n").unwrap();
        let mut burst: Vec<u8> =
            (0..2_000_000).flat_map(|line| format!("{line:09}\n").into_bytes()).collect();
        std::fs::write(numbered(&log, 1), &burst).unwrap();
        std::fs::write(numbered(&log, 3), "small\n").unwrap();
        trim(&log, Aside::Old).unwrap();
        let kept = std::fs::read(numbered(&log, 1)).unwrap();
        assert!(kept.len() as u64 <= LARGEST && kept.len() as u64 > LARGEST - 20, "{}", kept.len());
        assert!(kept.len().is_multiple_of(10) && burst.ends_with(&kept), "the last lines, whole");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "now\n");
        assert_eq!(std::fs::read_to_string(numbered(&log, 3)).unwrap(), "small\n");
        // The log itself only if no process has it open; a single long line is cut in the middle.
        burst.iter_mut().for_each(|byte| *byte = b'x');
        std::fs::write(&log, &burst).unwrap();
        trim(&log, Aside::Old).unwrap();
        assert_eq!(mark(&log).length, burst.len() as u64);
        trim(&log, Aside::All).unwrap();
        assert_eq!(mark(&log).length, LARGEST);
    }

    #[test]
    fn a_large_log_is_rotated_and_the_oldest_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("m.log");
        for round in 0..6 {
            rotate(&log).unwrap();
            assert!(!log.exists(), "round {round}");
            let file = std::fs::File::create(&log).unwrap();
            file.set_len(LARGEST).unwrap();
        }
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["m.log", "m.log.1", "m.log.2", "m.log.3"]);
        std::fs::write(&log, "small").unwrap();
        rotate(&log).unwrap();
        assert!(log.exists());
    }
}
