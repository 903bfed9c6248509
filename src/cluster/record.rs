//! The record of a rank on its host, by which others check whether it is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::api::paths::link_path;
use crate::backend::group::{rank_name, ranks_folder};
use crate::backend::record::{read, remove, replace};
use crate::host::{self, Host, Identity, Signal};

/// Time between SIGTERM and SIGKILL: the launcher ends within milliseconds unless it is stuck in a system call.
pub(super) const TERM: Duration = Duration::from_secs(5);

/// Interval between checks of a process that is ending.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RankRecord {
    pub generation: u64,
    /// The process of `mlxctl __rank`.
    pub keeper: Identity,
    /// Its Python, once started.
    pub python: Option<Identity>,
    pub boot_id: String,
}

/// Path of the record: `<run>/ranks/<model>.rank<N>.live.json`.
pub(crate) fn file(run: &Path, model: &str, rank: usize) -> PathBuf {
    ranks_folder(run).join(format!("{}.live.json", rank_name(model, rank)))
}

pub(crate) fn write(run: &Path, model: &str, rank: usize, record: &RankRecord) -> io::Result<()> {
    replace(&file(run, model, rank), record)
}

/// Removes all files of a rank, one of which contains the secret.
pub(crate) fn forget(run: &Path, model: &str, rank: usize) -> io::Result<()> {
    let (ranks, name) = (ranks_folder(run), rank_name(model, rank));
    remove(&link_path(&ranks, &name))?;
    remove(&ranks.join(format!("{name}.json")))?;
    remove(&file(run, model, rank))
}

/// Waits until the recorded rank is gone, and removes its files. Kills what is left after `patience`, Python first. A
/// rank without a record counts as gone.
///
/// # Errors
/// The system's own; `TimedOut` if it survives being killed.
pub(crate) async fn wait_gone(
    host: &dyn Host,
    run: &Path,
    model: &str,
    rank: usize,
    patience: Duration,
) -> io::Result<()> {
    let path = file(run, model, rank);
    let began = host.awake();
    loop {
        let Some(record) = read::<RankRecord>(&path)? else { return Ok(()) };
        let mine = record.boot_id == host.facts().boot_id;
        let processes: Vec<_> = record.python.into_iter().chain([record.keeper]).collect();
        let alive: Vec<_> = processes
            .into_iter()
            .filter(|who| mine && matches!(host.identify(who.pid), Ok(now) if now == Some(*who)))
            .collect();
        if alive.is_empty() {
            return forget(run, model, rank);
        }
        let waited = host.awake().since(began);
        if waited > patience {
            for who in &alive {
                host.signal(*who, Signal::Kill)?;
            }
        }
        if waited > patience * 2 + Duration::from_secs(5) {
            let pids: Vec<_> = alive.iter().map(|who| who.pid.to_string()).collect();
            let text = format!("rank {rank} of {model} does not end: process {}", pids.join(", "));
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `mlxctl __end_ranks RUN MODEL RANKS PATIENCE_MS`: waits until these ranks are gone from this host, kills the rest,
/// and prints errors. Returns the exit code.
pub(crate) fn end_ranks(arguments: &[String]) -> u8 {
    let [run, model, ranks, patience] = arguments else { return 2 };
    let ranks: Option<Vec<usize>> = ranks.split(',').map(|rank| rank.parse().ok()).collect();
    let (Some(ranks), Ok(patience)) = (ranks, patience.parse().map(Duration::from_millis)) else { return 2 };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    let host = host::system();
    let all = async {
        for rank in ranks {
            wait_gone(&*host, Path::new(run), model, rank, patience).await?;
        }
        Ok::<(), io::Error>(())
    };
    let limit = patience * 4 + Duration::from_secs(20);
    match runtime.block_on(async { timeout(limit, all).await }) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            // Shown at the other end. If it cannot be written, the exit code has to do.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{error}\n"));
            1
        }
        Err(_) => 1,
    }
}
