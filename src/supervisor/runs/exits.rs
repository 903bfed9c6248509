//! The end of a process: a watch that cannot be refused, and what it died of.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::group::scratch;
use crate::backend::spec::Spec;
use crate::backend::{diagnose, logs};
use crate::cluster::proof;
use crate::host::{Exit, ExitWatch, Host, Identity, Signal};
use crate::lifecycle::{Generation, Signed};

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(500);

/// Between two looks at a process group whose leader is gone.
const SURVIVORS: Duration = Duration::from_millis(20);

/// As [`Host::watch`], but where that fails (no descriptors left), it is tried again, and until then the process is
/// looked at: a run that nobody watches would never be over.
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
                // A zombie of ours is reaped by the watch alone, so that comes first wherever it can be had.
                return match host.watch(who) {
                    Ok(exit) => exit.await,
                    Err(_) => Exit::Unknown,
                };
            }
            watch = host.watch(who);
        }
    })
}

/// Waits for the end of a run and finds out what it died of.
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
    /// The run is gone when its whole process group is: what the leader left behind is killed, since nobody
    /// would ever stop it.
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

    /// A conductor that came to its own end has proven that its ranks are gone. Where it did not, its ranks notice, and
    /// each host is asked.
    async fn ranks_gone(&self) {
        let Some(group) = &self.spec.group else { return };
        let all: Vec<usize> = (0..group.places.len()).collect();
        let unheard = Duration::ZERO;
        let words = proof::gone(&*self.host, &self.run, &self.spec.model, group, &all, unheard).await;
        // Its conductor would have removed it; the next one makes it anew.
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
