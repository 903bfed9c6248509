//! `mlxctl logs <model>`

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use fs_err::File;

use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cli::remote::unknown_model;
use crate::terminal::Shown;

/// Between two looks of `-f`.
const BETWEEN: Duration = Duration::from_millis(200);
/// Read at once, bytes.
const BLOCK: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name or an alias
    model: String,
    /// Go on with what is added, across rotation and restarts, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// So many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    lines: usize,
}

/// Prints the end of a backend's log. Needs no supervisor.
///
/// # Errors
/// Exit 4 for an unknown model; exit 1 where there is no log yet, or it cannot be read.
pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let model = registry.model(&args.model).map_err(|unknown| unknown_model(&registry, &unknown))?;
    let path = registry.paths.logs.join(format!("{}.log", model.name));
    let unreadable = |error: io::Error| CliError::failed("cannot read the log").why(error);
    let mut tail = Tail { path, file: None, shown: Shown::default() };
    match tail.open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && args.follow => {
            context.output.say(&format!(
                "{} has no log yet; waiting for {}",
                model.name,
                tail.path.display()
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::new(Exit::Failed, format!("{} has no log yet", model.name))
                .why(format!("{} does not exist; it is made at the first start", tail.path.display()))
                .hint(format!("mlxctl start {}", model.name)));
        }
        opened => opened.map_err(unreadable)?,
    }
    if let Some(file) = &mut tail.file {
        let start = start_of_last(file, args.lines).map_err(unreadable)?;
        file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
    }
    tail.copy(context, unreadable)?;
    if !args.follow {
        return Ok(());
    }
    context.output.quit_when_unread();
    loop {
        std::thread::sleep(BETWEEN);
        tail.catch_up().map_err(unreadable)?;
        tail.copy(context, unreadable)?;
    }
}

/// A log that may be truncated, or moved away and made anew.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// A model's output is in it, and what others sent.
    shown: Shown,
}

impl Tail {
    fn open(&mut self) -> io::Result<()> {
        self.file = Some(File::open(&self.path)?);
        Ok(())
    }

    /// Prints what there is from here on.
    fn copy(&mut self, context: &Context, problem: fn(io::Error) -> CliError) -> Result<(), CliError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut block = Vec::new();
        loop {
            block.clear();
            if file.by_ref().take(BLOCK).read_to_end(&mut block).map_err(problem)? == 0 {
                return Ok(());
            }
            context.output.bytes(self.shown.block(&block).as_bytes())?;
        }
    }

    /// Goes on at the right place: at the start of a file that has become shorter, or that is a new one. What the
    /// old one got before it was moved away was printed by the `copy` before, but for a last line that may have
    /// been added since: that is read before it is left.
    fn catch_up(&mut self) -> io::Result<()> {
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

/// Where the last `lines` lines begin; reads no more than it must, from the end.
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
            // The line end that ends the file begins no line.
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
        let mut tail = Tail { path: path.clone(), file: None, shown: Shown::default() };
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
        let mut tail = Tail { path: path.clone(), file: None, shown: Shown::default() };
        tail.open().unwrap();
        assert_eq!(unread(&mut tail), "a long first line\n");
        std::fs::write(&path, "").unwrap();
        append(&path, "new\n");
        tail.catch_up().unwrap();
        assert_eq!(unread(&mut tail), "new\n");
    }
}
