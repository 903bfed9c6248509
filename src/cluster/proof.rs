//! Proof that the ranks of a group are gone: by asking each host, or if one does not answer, by waiting.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::record;
use crate::backend::group::{Group, Place};
use crate::host::{self, Host};

/// How long ssh may take to connect, whole seconds.
const CONNECT: Duration = Duration::from_secs(3);
/// Added to the time after which a rank must have ended itself.
const MARGIN: Duration = Duration::from_secs(1);
/// How long a host may take to answer, in addition to the time that its ranks are given.
const ANSWER: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub host: String,
    pub ranks: Vec<usize>,
    /// Why it could not be asked; `None` if its ranks are gone.
    pub problem: Option<String>,
}

/// Quotes a word for a POSIX shell.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Arguments for ssh that run our binary on a host without prompting.
pub(crate) fn ssh_arguments(host: &str, binary: &Path, arguments: &[&str]) -> Vec<String> {
    let line: Vec<_> = std::iter::once(binary.to_string_lossy().as_ref())
        .chain(arguments.iter().copied())
        .map(quoted)
        .collect();
    ["-T", "-o", "BatchMode=yes", "-o"]
        .into_iter()
        .map(str::to_owned)
        .chain([format!("ConnectTimeout={}", CONNECT.as_secs())])
        .chain(["-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=2"].map(str::to_owned))
        .chain([host.to_owned(), line.join(" ")])
        .collect()
}

/// Waits until all of `ranks` are gone. `unheard` is how long the ranks have not heard from a conductor.
pub(crate) async fn gone(
    host: &dyn Host,
    run: &Path,
    model: &str,
    group: &Group,
    ranks: &[usize],
    unheard: Duration,
) -> Vec<Word> {
    let asked = group.hosts().into_iter().filter_map(|(place, all)| {
        let asked: Vec<usize> = all.into_iter().filter(|rank| ranks.contains(rank)).collect();
        (!asked.is_empty()).then(|| one_host(host, run, model, group, place, asked, unheard))
    });
    futures_util::future::join_all(asked).await
}

async fn one_host(
    host: &dyn Host,
    run: &Path,
    model: &str,
    group: &Group,
    place: &Place,
    ranks: Vec<usize>,
    unheard: Duration,
) -> Word {
    // By then each rank has ended itself for silence, and killed its Python if necessary.
    let own_end = (group.timeout() + record::TERM + MARGIN).saturating_sub(unheard);
    let began = host.awake();
    let answered = if place.local {
        here(host, run, model, &ranks).await
    } else {
        over_ssh(host, run, model, group, place, &ranks).await
    };
    let problem = match answered {
        Ok(()) => None,
        Err(error) => {
            tokio::time::sleep(own_end.saturating_sub(host.awake().since(began))).await;
            Some(error.to_string())
        }
    };
    Word { host: place.host.clone(), ranks, problem }
}

async fn here(host: &dyn Host, run: &Path, model: &str, ranks: &[usize]) -> io::Result<()> {
    for rank in ranks {
        record::wait_gone(host, run, model, *rank, record::TERM).await?;
    }
    Ok(())
}

async fn over_ssh(
    host: &dyn Host,
    run: &Path,
    model: &str,
    group: &Group,
    place: &Place,
    ranks: &[usize],
) -> io::Result<()> {
    let numbers: Vec<_> = ranks.iter().map(usize::to_string).collect();
    let patience = record::TERM.as_millis().to_string();
    let folder = run.to_string_lossy();
    let arguments = ["__end_ranks", &folder, model, &numbers.join(","), &patience];
    let mut child = std::process::Command::new("ssh")
        .args(ssh_arguments(&place.host, &group.binary, &arguments))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("ssh cannot be run: {error}")))?;
    let who = host::identify_child(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    let (said, words) = tokio::sync::oneshot::channel();
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            // After an error, what was read so far is used.
            let _ = io::Read::read_to_string(&mut io::Read::take(stderr, 4096), &mut text);
            let _ = said.send(text);
        });
    }
    let exit = host.watch(who)?;
    match tokio::time::timeout(ANSWER + record::TERM * 2, exit).await {
        Ok(host::Exit::Code(0)) => Ok(()),
        Ok(exit) => {
            let text = tokio::time::timeout(MARGIN, words).await;
            let text = text.ok().and_then(Result::ok).unwrap_or_default();
            let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
            Err(io::Error::other(last.map_or_else(|| format!("ssh {exit}"), str::to_owned)))
        }
        Err(_) => {
            host.signal(who, host::Signal::Kill)?;
            Err(io::Error::new(io::ErrorKind::TimedOut, "ssh got no answer"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_remote_shell_reads_is_what_was_meant() {
        let arguments = ssh_arguments("studio", Path::new("/opt/my tools/mlxctl"), &["__x", "it's"]);
        assert_eq!(arguments.last().unwrap(), r"'/opt/my tools/mlxctl' '__x' 'it'\''s'");
        assert_eq!(arguments[arguments.len() - 2], "studio");
        assert!(arguments.contains(&"BatchMode=yes".to_owned()));
    }
}
