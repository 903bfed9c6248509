//! The file of an access log: created with its first line, rotated by size.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Rotate above this size, in bytes, and keep this many old files.
pub(super) const FILE_BYTES: u64 = 16 << 20;
const KEPT: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    pub(super) size: u64,
    complained: bool,
}

impl LogFile {
    /// Appends lines to the file at `path`. A full disk must not stop requests: the error is logged once.
    pub(super) fn append(&mut self, path: &Path, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if self.path != path {
            (self.path, self.file) = (path.to_path_buf(), None);
        }
        match self.try_append(lines) {
            Ok(()) => self.complained = false,
            Err(error) => {
                self.file = None;
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(path = %self.path.display(), %error, "cannot write the access log");
                }
            }
        }
    }

    fn try_append(&mut self, lines: &[u8]) -> std::io::Result<()> {
        if self.file.is_some() && self.size + lines.len() as u64 > FILE_BYTES {
            self.file = None;
            rotate(&self.path)?;
        }
        if self.file.is_none() {
            let file = File::options().create(true).append(true).open(&self.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(lines)?;
            self.size += lines.len() as u64;
        }
        Ok(())
    }
}

/// `x.log` → `x.log.1` → … → gone.
fn rotate(path: &Path) -> std::io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..KEPT).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rotated_and_the_oldest_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("32b.access.log");
        let mut log = LogFile::default();
        for round in 0..7 {
            log.append(&path, format!("r{round}\n").as_bytes());
            log.size = FILE_BYTES;
        }
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let numbered = ["", ".1", ".2", ".3", ".4"].map(|number| format!("32b.access.log{number}"));
        assert_eq!(names, numbered.map(std::ffi::OsString::from));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "r6\n");
    }
}
