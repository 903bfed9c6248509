//! One line per request. Lines are collected in memory and written by a thread of their own: a slow disk costs lines,
//! which are counted, but does not delay requests.

mod file;
mod line;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use file::LogFile;
pub(crate) use line::Line;
use line::Stamp;

/// Lines are written in batches: one write per request would cost as much as the request.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
const FLUSH_BYTES: usize = 32 * 1024;
/// Maximum bytes of lines that wait for the disk; further requests get no line.
const HELD_BYTES: usize = 1 << 20;
/// How long closing a gate waits for the disk.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Lines per second for requests that reach no backend: they cost their sender nothing and would displace all others.
const UNSERVED: u32 = 20;

/// The file, and the lines waiting for it.
#[derive(Debug)]
pub(crate) struct AccessLog {
    state: Mutex<State>,
    /// Locked during a write, and never by a task that serves requests.
    file: Mutex<LogFile>,
    more: Notify,
    full: Notify,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    lines: Vec<u8>,
    /// Lines still to be written to earlier paths.
    elsewhere: Vec<(PathBuf, Vec<u8>)>,
    stamp: Stamp,
    unlisted: Unlisted,
}

/// Requests without a line: those of one second that reached no backend, and those for which there was no room.
#[derive(Debug, Default)]
struct Unlisted {
    second: u64,
    listed: u32,
    count: u64,
}

impl Unlisted {
    /// Whether one more request that reached no backend gets a line.
    fn has_line(&mut self) -> bool {
        let listed = self.listed < UNSERVED;
        self.listed += u32::from(listed);
        self.count += u64::from(!listed);
        listed
    }

    /// How many requests got no line, once their second is over; until then 0.
    fn over(&mut self, second: u64) -> u64 {
        if second == self.second {
            return 0;
        }
        std::mem::replace(self, Self { second, ..Self::default() }).count
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccessLog {
    /// Lines go to `path`; the file is created with the first one.
    pub(crate) fn new(path: PathBuf) -> Self {
        let state = State {
            path,
            lines: Vec::new(),
            elsewhere: Vec::new(),
            stamp: Stamp::default(),
            unlisted: Unlisted::default(),
        };
        Self { state: Mutex::new(state), file: Mutex::default(), more: Notify::new(), full: Notify::new() }
    }

    /// Later lines go to `path`; earlier ones still go where they were meant to.
    pub(crate) fn move_to(&self, path: &Path) {
        let mut state = locked(&self.state);
        if state.path != path {
            let before = std::mem::replace(&mut state.path, path.to_path_buf());
            let lines = std::mem::take(&mut state.lines);
            if !lines.is_empty() {
                state.elsewhere.push((before, lines));
            }
        }
    }

    /// Takes a line; it is in the file about a quarter of a second later.
    pub(crate) fn write(&self, line: &Line<'_>) {
        self.write_at(line, SystemTime::now());
    }

    fn write_at(&self, line: &Line<'_>, now: SystemTime) {
        let mut state = locked(&self.state);
        state.sum_up(now);
        if state.is_full() {
            state.unlisted.count += 1;
        } else if line.attempts > 0 || state.unlisted.has_line() {
            state.take(line, now);
        }
        // A second with requests that got no line is summed up even if no request follows.
        self.more.notify_one();
        if state.lines.len() >= FLUSH_BYTES {
            self.full.notify_one();
        }
    }

    /// Writes all lines, and waits for the disk.
    fn flush(&self) {
        let mut file = locked(&self.file);
        let batches = locked(&self.state).all(SystemTime::now());
        for (path, lines) in batches {
            file.append(&path, &lines);
        }
    }

    /// Writes lines as they come, for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            self.more.notified().await;
            let _ = tokio::time::timeout(FLUSH_AFTER, self.full.notified()).await;
            let log = self.clone();
            // It fails only when the runtime ends, and this task with it.
            let _ = tokio::task::spawn_blocking(move || log.flush()).await;
            if locked(&self.state).unlisted.count > 0 {
                self.more.notify_one();
            }
        }
    }

    /// Writes the last lines, unless the disk takes longer than [`LAST_WRITE`].
    pub(crate) async fn finish(self: &Arc<Self>) {
        let log = self.clone();
        let _ = tokio::time::timeout(LAST_WRITE, tokio::task::spawn_blocking(move || log.flush())).await;
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl State {
    fn take(&mut self, line: &Line<'_>, now: SystemTime) {
        self.stamp.write(now, &mut self.lines);
        line.format(&mut self.lines);
    }

    fn is_full(&self) -> bool {
        let elsewhere: usize = self.elsewhere.iter().map(|(_, lines)| lines.len()).sum();
        self.lines.len() + elsewhere >= HELD_BYTES
    }

    /// Writes one line with the number of requests that got none, once their second is over and there is room.
    fn sum_up(&mut self, now: SystemTime) {
        if self.is_full() {
            return;
        }
        let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let count = self.unlisted.over(second);
        if count > 0 {
            let outcome = format!("unlisted={count}");
            let line = Line { id: "-", method: "-", path: "-", outcome: &outcome, ..Line::default() };
            self.take(&line, now);
        }
    }

    /// Takes all lines, each batch with its path.
    fn all(&mut self, now: SystemTime) -> Vec<(PathBuf, Vec<u8>)> {
        self.sum_up(now);
        let mut all = std::mem::take(&mut self.elsewhere);
        all.push((self.path.clone(), std::mem::take(&mut self.lines)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_requests_that_reach_no_backend_gets_a_few_lines_and_a_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = AccessLog::new(path.clone());
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let refused = Line { status: 401, id: "refused", ..Line::default() };
        let served = Line { status: 200, id: "served", attempts: 1, ..Line::default() };
        for _ in 0..1000 {
            log.write_at(&refused, at(5000));
        }
        for _ in 0..100 {
            log.write_at(&served, at(5500));
        }
        log.write_at(&refused, at(6000));
        log.write_at(&refused, at(7000));
        log.flush();
        let text = std::fs::read_to_string(path).unwrap();
        let count = |word: &str| text.lines().filter(|line| line.contains(word)).count();
        assert_eq!(count(" refused "), UNSERVED as usize + 2);
        assert_eq!(count(" served "), 100);
        let said: Vec<_> = text.lines().filter(|line| line.contains("unlisted=")).collect();
        assert_eq!(said.len(), 1, "{text}");
        assert!(said[0].ends_with(" unlisted=980") && said[0].contains(":06.000Z - - - - - 0 "), "{said:?}");
    }

    #[tokio::test]
    async fn a_stuck_disk_costs_lines_but_delays_no_request() {
        use std::io::Read as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slow.log");
        // Opening it for writing blocks until someone reads.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let log = Arc::new(AccessLog::new(path.clone()));
        let writing = tokio::spawn(log.clone().run());
        let served = Line { status: 200, id: "served", attempts: 1, ..Line::default() };
        log.write(&served);
        let until_taken = async {
            while !locked(&log.state).lines.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), until_taken)
            .await
            .expect("the line is on its way to the disk");
        // The loop above kept running while that write blocks, and further lines do not block either.
        let asked = 2 * HELD_BYTES / 64;
        for _ in 0..asked {
            log.write(&served);
        }
        let held = locked(&log.state).lines.len();
        assert!((HELD_BYTES..HELD_BYTES + 1024).contains(&held), "{held}");
        assert!(locked(&log.state).unlisted.count > 0);
        log.finish().await;

        let mut reading = std::fs::File::open(&path).unwrap();
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reading.read_to_string(&mut text).map(|_| text)
        });
        let until_told = async {
            while locked(&log.state).unlisted.count > 0 || !locked(&log.state).lines.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), until_told)
            .await
            .expect("the disk accepts lines again");
        writing.abort();
        let _ = writing.await;
        drop(log);
        let text = read.join().unwrap().unwrap();
        let listed = text.lines().filter(|line| line.contains(" served ")).count();
        let unlisted = text.lines().find_map(|line| line.split_once("unlisted=")).unwrap().1;
        assert_eq!(listed + unlisted.parse::<usize>().unwrap(), asked + 1, "each has a line or is counted");
    }

    #[test]
    fn lines_from_before_a_move_go_to_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let [before, after] = ["a.log", "b.log"].map(|name| folder.path().join(name));
        let log = AccessLog::new(before.clone());
        log.write(&Line { id: "first", ..Line::default() });
        log.move_to(&after);
        log.write(&Line { id: "second", ..Line::default() });
        drop(log);
        assert!(std::fs::read_to_string(before).unwrap().contains(" first "));
        assert!(std::fs::read_to_string(after).unwrap().contains(" second "));
    }
}
