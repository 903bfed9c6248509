//! Programs that a test writes and then runs.
//!
//! They are written by another process. A descriptor that this one held open for writing could be inherited by a
//! child that another test forks at that moment, and until that child has exec'd, running the file would fail with
//! `ETXTBSY` (execve(2)).

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes `path` an executable file with the content `text`; overwrites what was there before.
pub(crate) fn write(path: &Path, text: &str) {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", r#"cat >"$1" && chmod 755 "$1""#, "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success(), "{}", path.display());
}
