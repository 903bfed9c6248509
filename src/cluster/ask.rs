//! Gets a [`Report`] from the machines of a cluster, over the same ssh as `mlx.launch`, without prompting.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::host::{Question, Report};
use super::proof::quoted;
use crate::registry::Cluster;

/// How long ssh may take to connect, whole seconds.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the whole answer may take by default.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest output that is read, bytes: a report is shorter, but a login script may print more.
const LONGEST: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Ssh {
    pub program: PathBuf,
    /// `mlxctl`, at the same path on every machine.
    pub binary: PathBuf,
    pub limit: Duration,
}

/// A machine's report, or one sentence that says why there is none.
pub(crate) type Answer = Result<Report, String>;

impl Ssh {
    /// Uses the `ssh` in PATH, and the default limit.
    pub(crate) fn new(binary: &Path) -> Self {
        Self { program: PathBuf::from("ssh"), binary: binary.to_owned(), limit: ANSWER }
    }

    /// Asks all other machines of `cluster` at once; answers by host, in the order of their ranks. Blocks until the
    /// slowest has answered, at most for the limit.
    pub(crate) fn ask(&self, cluster: &Cluster, question: &Question) -> Vec<(String, Answer)> {
        std::thread::scope(|scope| {
            let asked: Vec<_> = cluster
                .others()
                .into_iter()
                .map(|host| {
                    let name = host.clone();
                    let ask = move || self.one(&name, question);
                    (host, std::thread::Builder::new().spawn_scoped(scope, ask))
                })
                .collect();
            asked
                .into_iter()
                .map(|(host, answer)| {
                    let answer =
                        answer.map_err(|error| format!("it could not be asked: {error}")).and_then(|asked| {
                            asked.join().unwrap_or_else(|_| Err("it could not be asked".into()))
                        });
                    (host, answer)
                })
                .collect()
        })
    }

    fn one(&self, host: &str, question: &Question) -> Answer {
        let connect = format!("ConnectTimeout={}", CONNECT.as_secs());
        let mut child = Command::new(&self.program)
            .args(["-o", "BatchMode=yes", "-o", &connect, host, &self.remote(question)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("ssh cannot be run: {error}"))?;
        let out = read(child.stdout.take());
        let err = read(child.stderr.take());
        let deadline = Instant::now() + self.limit;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Ok(None) | Err(_) => {
                    // It may have ended just now.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("no answer within {}", humantime::format_duration(self.limit)));
                }
            }
        };
        let (out, err) = (text(&out), text(&err));
        let last = err.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing was printed");
        match status.code() {
            // ssh's own failures (ssh(1), EXIT STATUS).
            Some(255) => return Err(format!("ssh without a prompt failed: {last}")),
            Some(126 | 127) => {
                return Err(format!("there is no mlxctl at {}: {last}", self.binary.display()));
            }
            Some(0) => {}
            _ => return Err(format!("mlxctl host failed there: {last}")),
        }
        // A login script may have printed something first.
        let start = out.find('{').unwrap_or(out.len());
        serde_json::from_str(&out[start..])
            .map_err(|error| format!("its mlxctl gives an answer this version does not understand: {error}"))
    }

    /// The command line for the other machine's shell.
    fn remote(&self, question: &Question) -> String {
        let mut words = vec![self.binary.display().to_string(), "host".to_owned(), "--json".to_owned()];
        if let Some(venv) = &question.venv {
            words.extend(["--venv".to_owned(), venv.display().to_string()]);
        }
        if let Some(model) = &question.model {
            words.extend(["--model".to_owned(), model.to_string()]);
        }
        for program in &question.programs {
            words.extend(["--running".to_owned(), program.clone()]);
        }
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

fn read(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // After an error, what was read so far is used.
            let _ = pipe.take(LONGEST).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// Waits at most 1 s for the text: a program that ssh left behind may hold the pipe open.
fn text(pipe: &std::sync::mpsc::Receiver<Vec<u8>>) -> String {
    let bytes = pipe.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
