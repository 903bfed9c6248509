//! The processes that the trials run on.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::host::{Host, Identity};

/// A shell that leads its own process group. It is killed and waited for when dropped.
pub(super) struct Subject {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Its identity, as the host reports it.
    pub who: Identity,
}

impl Subject {
    /// Runs `script`, with `argument` as its `$0`, until it has printed a line; returns that line as well.
    pub(super) fn start(host: &dyn Host, script: &str, argument: &str) -> io::Result<(Self, String)> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, argument]).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let pid = child.id().cast_signed();
        let subject = stdout.map(|stdout| (BufReader::new(stdout), host.identify(pid)));
        let (stdout, who) = match subject {
            Some((stdout, Ok(Some(who)))) => (stdout, who),
            other => {
                // It is still our child, whatever the host makes of it.
                child.kill()?;
                child.wait()?;
                let error = other.and_then(|(_, found)| found.err());
                return Err(
                    error.unwrap_or_else(|| io::Error::other(format!("the child, pid {pid}, was not found")))
                );
            }
        };
        let mut subject = Self { child, stdin, stdout, who };
        let line = subject.line()?;
        Ok((subject, line))
    }

    /// The next line that it prints.
    pub(super) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends the line that its `read` waits for.
    pub(super) fn go_on(&mut self) -> io::Result<()> {
        self.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(b"\n"))
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Killing by pid is safe: a child keeps its pid until it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
