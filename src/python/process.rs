//! Runs a program to its end: line by line, or with a time limit.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::environment;
use crate::terminal::shown;

/// How many lines of output are kept to explain a failure.
const KEPT_LINES: usize = 400;

/// A command with the environment of all our Python processes ([`environment`]), and no input.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    environment::cleaned(&mut command);
    command.stdin(Stdio::null());
    command
}

/// How a program ended, and its last lines on either stream.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: ExitStatus,
    pub lines: Vec<String>,
}

/// Runs `command` to its end and calls `line` for each line of its stdout and stderr.
pub(crate) fn stream(mut command: Command, line: &mut dyn FnMut(&str)) -> io::Result<Ended> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (sender, receiver) = mpsc::channel();
    let readers: Vec<_> = [
        child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    ]
    .into_iter()
    .flatten()
    .map(|stream| {
        let sender = sender.clone();
        thread::spawn(move || {
            for bytes in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(shown(String::from_utf8_lossy(&bytes).trim_end()).into_owned());
            }
        })
    })
    .collect();
    drop(sender);
    let mut lines = Vec::new();
    for text in receiver {
        line(&text);
        if lines.len() == KEPT_LINES {
            lines.remove(0);
        }
        lines.push(text);
    }
    for reader in readers {
        let _ = reader.join();
    }
    Ok(Ended { status: child.wait()?, lines })
}

/// Why there is no answer from a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Silence {
    pub why: String,
    /// Whether the program is not to blame: the machine is busy, there is no permission, or there are too many
    /// processes.
    pub may_pass: bool,
}

impl Silence {
    fn passing(error: &io::Error) -> Self {
        Self { why: error.to_string(), may_pass: true }
    }
}

/// Runs `command` for at most `limit` and returns its stdout.
///
/// # Errors
/// Why there is none, in one sentence.
pub(crate) fn output(command: Command, limit: Duration) -> Result<String, String> {
    answer(command, limit).map_err(|silence| silence.why)
}

/// Like [`output`], but an error says whether it may pass.
pub(crate) fn answer(mut command: Command, limit: Duration) -> Result<String, Silence> {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| Silence {
            why: format!("it does not start: {error}"),
            // ENOEXEC has no kind of its own.
            may_pass: error.kind() != io::ErrorKind::NotFound && error.raw_os_error() != Some(libc::ENOEXEC),
        })?;
    // A pipe holds 16 to 64 KB; a program that writes more would wait for a reader.
    let (stdout, stderr) = (drained(child.stdout.take()), drained(child.stderr.take()));
    let until = Instant::now() + limit;
    while child.try_wait().map_err(|error| Silence::passing(&error))?.is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Silence {
                why: format!("it did not answer within {} s", limit.as_secs()),
                may_pass: true,
            });
        }
        thread::sleep(Duration::from_millis(5));
    }
    let status = child.wait().map_err(|error| Silence::passing(&error))?;
    if status.success() {
        return Ok(stdout.join().unwrap_or_default());
    }
    let words = stderr.join().unwrap_or_default();
    let last = words.lines().rev().find(|text| !text.trim().is_empty()).unwrap_or("it prints nothing");
    let why = format!("it fails ({status}): {}", shown(last.trim()));
    // If killed from outside, the program is not to blame. On macOS a missing library ends in SIGABRT.
    let killed = matches!(status.signal(), Some(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP));
    Err(Silence { why, may_pass: killed })
}

/// Reads a stream to its end in another thread.
fn drained(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // After an error, what was read so far is used.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = command("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_streams_are_shown_and_kept() {
        let mut seen = Vec::new();
        let ended = stream(shell("echo one; echo two >&2; exit 3"), &mut |line| seen.push(line.to_owned()));
        let ended = ended.unwrap();
        seen.sort();
        assert_eq!((seen, ended.status.code()), (vec!["one".into(), "two".into()], Some(3)));
        assert_eq!(ended.lines.len(), 2);
    }

    #[test]
    fn a_program_that_does_not_answer_is_given_up() {
        let why = output(shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert!(why.contains("did not answer"), "{why}");
    }

    #[test]
    fn an_answer_may_be_longer_than_a_pipe_holds() {
        let text = output(shell("head -c 300000 /dev/zero | tr '\\0' x"), Duration::from_secs(60)).unwrap();
        assert_eq!(text.len(), 300_000);
    }

    #[test]
    fn a_failure_is_told_with_its_last_line() {
        let why = output(shell("echo first >&2; echo 'no such thing' >&2; exit 4"), Duration::from_secs(60));
        assert!(why.unwrap_err().ends_with("no such thing"));
    }
}
