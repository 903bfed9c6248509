//! The files that are read while someone watches: access logs, and the log of one model.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::hour::{Hour, Line};
use crate::logs::{Request, Requests, Tail};
use crate::terminal::Shown;

/// Requests read from each access log at first: an hour's worth, unless it is busier than that.
const REQUESTS: usize = 2000;
/// How many requests the page lists.
const LISTED: usize = 30;
/// Lines of a log that are shown at first.
const LINES: usize = 200;
/// The most of a log to send at once, bytes: only the end of what is longer.
const LOG_BYTES: usize = 64 * 1024;

/// What has been read so far.
pub(super) struct Watched {
    logs: PathBuf,
    requests: Vec<(String, Requests)>,
    hour: Hour,
    listed: VecDeque<Request>,
    log: Option<Log>,
    begun: bool,
}

struct Log {
    tail: Tail,
    shown: Shown,
    begun: bool,
}

#[derive(Debug, Default)]
pub(super) struct News {
    /// The last hour and the last requests, if there were any.
    pub requests: Option<(Vec<Line>, Vec<Request>)>,
    /// What was added to the log since the last look.
    pub log: Option<String>,
}

impl Watched {
    /// `log`: the model whose log is watched as well.
    pub(super) fn new(logs: &Path, log: Option<&str>) -> Self {
        let log = log.map(|model| Log {
            tail: Tail::new(logs.join(format!("{model}.log"))),
            shown: Shown::default(),
            begun: false,
        });
        Self {
            logs: logs.to_owned(),
            requests: Vec::new(),
            hour: Hour::default(),
            listed: VecDeque::new(),
            log,
            begun: false,
        }
    }

    /// Reads what is new. A log that cannot be read has nothing new.
    pub(super) fn look(&mut self, models: &[String]) -> News {
        let first = !std::mem::replace(&mut self.begun, true);
        let requests = self.new_requests(models);
        let is_new = !requests.is_empty() || first;
        let now = SystemTime::now();
        for request in requests {
            self.hour.add(&request, now);
            // Leave out polling for status, which repeats endlessly.
            if request.method == "POST" || request.status >= 400 {
                self.listed.push_front(request);
            }
        }
        self.listed.truncate(LISTED);
        News {
            requests: is_new.then(|| (self.hour.lines(now), self.listed.iter().cloned().collect())),
            log: self.log.as_mut().and_then(|log| log.more().ok().flatten()),
        }
    }

    /// New requests, in the order in which they ended.
    fn new_requests(&mut self, models: &[String]) -> Vec<Request> {
        self.requests.retain(|(name, _)| models.contains(name));
        for model in models {
            if !self.requests.iter().any(|(name, _)| name == model)
                && let Ok(opened) = Requests::open_at_last(&self.logs, model, REQUESTS)
            {
                self.requests.push((model.clone(), opened));
            }
        }
        let mut found: Vec<Request> =
            self.requests.iter_mut().filter_map(|(_, requests)| requests.more().ok()).flatten().collect();
        found.sort_by(|a, b| a.at.cmp(&b.at));
        found
    }
}

impl Log {
    fn more(&mut self) -> io::Result<Option<String>> {
        let begins = !self.begun;
        if begins {
            match self.tail.open_at_last(LINES) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.begun = true,
            }
        } else {
            self.tail.catch_up()?;
        }
        let mut text = String::new();
        while let Some(block) = self.tail.block()? {
            text.push_str(&self.shown.block(&block));
            let mut cut = text.len().saturating_sub(LOG_BYTES);
            while !text.is_char_boundary(cut) {
                cut += 1;
            }
            text.drain(..cut);
        }
        Ok((begins || !text.is_empty()).then_some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_could_not_be_read_at_first_is_read_from_its_end_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs_err::create_dir(&path).unwrap();
        let mut watched = Watched::new(folder.path(), Some("a"));
        assert_eq!(watched.look(&[]).log, None);
        fs_err::remove_dir(&path).unwrap();
        fs_err::write(&path, "line\n".repeat(LINES + 50)).unwrap();
        assert_eq!(watched.look(&[]).log, Some("line\n".repeat(LINES)));
    }

    #[test]
    fn a_log_is_read_from_its_end_in_pieces_and_without_escape_sequences() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut watched = Watched::new(folder.path(), Some("a"));
        assert_eq!(watched.look(&[]).log.as_deref(), Some(""));
        assert_eq!(watched.look(&[]).log, None);
        fs_err::write(&path, "one\x1b[2J\n").unwrap();
        assert_eq!(watched.look(&[]).log.as_deref(), Some("one^[[2J\n"));
        fs_err::write(&path, "é".repeat(LOG_BYTES)).unwrap();
        let mut watched = Watched::new(folder.path(), Some("a"));
        let text = watched.look(&[]).log.unwrap();
        assert!(text.len() <= LOG_BYTES && text.chars().all(|c| c == 'é'));
    }

    #[test]
    fn requests_are_listed_newest_first_without_polling() {
        let folder = tempfile::tempdir().unwrap();
        let line = |second: u32, method: &str, status: u16| {
            format!(
                "2026-02-08T10:00:{second:02}.000Z 10.0.0.1 - r{second} {method} /v1/models {status} in=0 out=0 prompt=0 \
                 cached=0 tokens=0 wait=0ms total=1.0ms sent=0 ok\n"
            )
        };
        let write = |name: &str, text: String| fs_err::write(folder.path().join(name), text).unwrap();
        write("a.access.log", line(1, "POST", 200) + &line(4, "GET", 200));
        write("b.access.log", line(2, "GET", 404) + &line(3, "POST", 200));
        let mut watched = Watched::new(folder.path(), None);
        let models = ["a", "b"].map(str::to_owned);
        let listed = watched.look(&models).requests.unwrap().1;
        let ids: Vec<&str> = listed.iter().map(|request| request.id.as_str()).collect();
        assert_eq!(ids, ["r3", "r2", "r1"]);
        assert!(watched.look(&models).requests.is_none(), "nothing is new");
        assert!(watched.look(&models[..1]).requests.is_none());
    }
}
