//! The end of a process: a watch that never fails, and the cause of death.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::group::scratch;
use crate::backend::spec::Spec;
use crate::backend::{diagnose, logs};
use crate::cluster::proof;
use crate::host::{Exit, ExitWatch, Host, Identity, Signal};
use crate::lifecycle::{Generation, Signed};

/// Time between attempts to watch a process.
const AGAIN: Duration = Duration::from_millis(500);

/// Time between signals to the rest of a process group whose leader is gone.
const SURVIVORS: Duration = Duration::from_millis(20);

/// As [`Host::watch`], but if that fails (no descriptors left), it is retried, and the process is polled until it
/// succeeds: a run that is not watched would never end.
pub(super) fn watch(host: Arc<dyn Host>, who: Identity) -> ExitWatch {
    let first = host.watch(who);
    Box::pin(async move {
        let mut watch = first;
        loop {
            match watch {
                Ok(exit) => return exit.await,
                Err(error) => {
                    tracing::warn!(pid = who.pid, %error, "a process cannot be watched; trying again")
                }
            }
            tokio::time::sleep(AGAIN).await;
            if matches!(host.identify(who.pid), Ok(now) if now != Some(who)) && !host.group_alive(who) {
                // Only the watch reaps a zombie of ours, so it is tried once more.
                return match host.watch(who) {
                    Ok(exit) => exit.await,
                    Err(_) => Exit::Unknown,
                };
            }
            watch = host.watch(who);
        }
    })
}

/// Waits for the end of a run and finds the cause.
pub(super) struct LastWords {
    pub host: Arc<dyn Host>,
    pub identity: Identity,
    pub generation: Generation,
    pub log: PathBuf,
    pub log_start: logs::Mark,
    pub run: PathBuf,
    pub spec: Spec,
}

impl LastWords {
    /// Waits until the whole process group has ended. What the leader left behind is killed, since nothing else would
    /// ever stop it.
    pub(super) async fn wait(self, exit: ExitWatch) -> Signed {
        let exit = exit.await;
        while self.host.group_alive(self.identity) {
            if let Err(error) = self.host.signal(self.identity, Signal::Kill) {
                tracing::warn!(pid = self.identity.pid, %error, "a survivor of the group cannot be killed");
            }
            tokio::time::sleep(SURVIVORS).await;
        }
        if !matches!(exit, Exit::Code(0 | 1)) {
            self.ranks_gone().await;
        }
        let said = logs::since(&self.log, self.log_start);
        let diagnosis = Some(diagnose::death(self.generation, exit, &said));
        Signed::Gone { exit, diagnosis }
    }

    /// Asks each host whether the ranks of a conductor have ended. A conductor that ends by itself has made sure of that;
    /// the ranks of one that was killed notice its end themselves.
    async fn ranks_gone(&self) {
        let Some(group) = &self.spec.group else { return };
        let all: Vec<usize> = (0..group.places.len()).collect();
        let unheard = Duration::ZERO;
        let words = proof::gone(&*self.host, &self.run, &self.spec.model, group, &all, unheard).await;
        // The conductor would have removed it; the next one creates it again.
        let _ = std::fs::remove_dir_all(scratch(&self.run, &self.spec.model));
        for word in words {
            if let Some(problem) = word.problem {
                tracing::warn!(
                    model = self.spec.model,
                    host = word.host,
                    problem,
                    "a host could not be asked whether its ranks are gone; they end by themselves"
                );
            }
        }
    }
}
