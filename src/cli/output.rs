//! Output: data to stdout, messages to stderr, colour only on a terminal.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use super::error::CliError;
use super::wrap::fold;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Even when writing to a pipe.
    Always,
    /// Without any colour.
    Never,
}

/// Columns of a stream; `usize::MAX` if it is not a terminal.
fn width(stream: impl AsFd) -> usize {
    terminal_size::terminal_size_of(stream).map_or(usize::MAX, |(width, _)| usize::from(width.0))
}

/// What stdout and stderr can show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Whether to use colour on stdout.
    pub color: bool,
    /// Whether to use colour on stderr.
    pub color_err: bool,
    /// Whether stderr is a terminal, so progress may be drawn.
    pub interactive: bool,
    /// How many times `-v` was given.
    pub verbose: u8,
    /// Columns of stderr; `usize::MAX` if it is not a terminal.
    width_err: usize,
}

impl Output {
    /// Looks at the streams and the environment once.
    pub(crate) fn new(color: Color, verbose: u8) -> Self {
        let wanted = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            color: wanted(out),
            color_err: wanted(err),
            interactive: err,
            verbose,
            width_err: width(io::stderr()),
        }
    }

    /// Writes data: `text` to stdout, with a newline if it has none.
    ///
    /// # Errors
    /// When stdout cannot be written. A closed pipe ends the process quietly: the reader has what it wanted.
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        let end = if text.ends_with('\n') { "" } else { "\n" };
        self.bytes(format!("{text}{end}").as_bytes())
    }

    /// Writes a document to stdout, as indented JSON.
    pub(crate) fn json(&self, document: &impl serde::Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(document);
        self.data(&text.map_err(|error| CliError::failed("cannot write the answer as JSON").why(error))?)
    }

    /// Writes data that need not be text to stdout.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        if !self.offer(bytes)? {
            std::process::exit(0);
        }
        Ok(())
    }

    /// Like [`Self::bytes`], for callers that must clean up: `false` if stdout is closed.
    ///
    /// # Errors
    /// When stdout cannot be written for another reason.
    pub(crate) fn offer(&self, bytes: &[u8]) -> Result<bool, CliError> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(CliError::failed("cannot write to stdout").why(error)),
            Ok(()) => Ok(true),
        }
    }

    /// Ends the process quietly as soon as stdout is closed.
    pub(crate) fn quit_when_unread(&self) {
        self.when_unread(|| std::process::exit(0));
    }

    /// Calls `what` as soon as stdout is closed. A command that waits would notice only at its next write.
    pub(crate) fn when_unread(&self, what: impl FnOnce() + Send + 'static) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        std::thread::spawn(move || {
            let out = io::stdout();
            // No event is requested: POLLERR and POLLHUP are always reported (poll(2)).
            let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
            let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
            if poll(&mut fds, PollTimeout::NONE).is_ok()
                && fds[0].revents().is_some_and(|events| events.intersects(gone))
            {
                what();
            }
        });
    }

    /// Writes a message to stderr, wrapped to the terminal. A closed stderr is ignored.
    pub(crate) fn say(&self, line: &str) {
        let _ = writeln!(io::stderr().lock(), "{}", fold(line, 2, self.width_err));
    }

    /// Prints a failure: what, why, what to do.
    pub(crate) fn error(&self, error: &CliError) {
        let (red, cyan, reset) =
            if self.color_err { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
        let painted = |text: &str, word: &str, color: &str| {
            let text = fold(text, 2, self.width_err);
            self.say(&text.replacen(word, &format!("{color}{word}{reset}"), 1));
        };
        painted(&format!("error: {}", error.what), "error", red);
        for line in error.why.iter().flat_map(|why| why.lines()) {
            self.say(&format!("  {line}"));
        }
        for line in error.hint.iter().flat_map(|hint| hint.lines()) {
            painted(&format!("try: {line}"), "try", cyan);
        }
    }
}
