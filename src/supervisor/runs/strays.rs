//! Ends processes of ours that belong to no run.

use std::sync::Arc;
use std::time::Duration;

use super::exits;
use super::news::{News, Report};
use crate::host::{Host, Identity, Signal};
use crate::lifecycle::Name;

/// Time from SIGTERM to SIGKILL, the registry's default for a backend.
const TERM: Duration = Duration::from_secs(20);

/// Time between further signals.
const AGAIN: Duration = Duration::from_millis(200);

/// Processes that have not ended yet, with the model they serve.
#[derive(Debug, Default)]
pub(super) struct Strays(Vec<(Name, Identity)>);

impl Strays {
    /// Ends a process; [`News::StrayGone`] is sent once it is gone.
    pub(super) fn put_away(&mut self, name: Name, who: Identity, host: &Arc<dyn Host>, report: &Report) {
        self.0.push((name.clone(), who));
        let (host, report) = (host.clone(), report.clone());
        tokio::spawn(async move {
            put_away(host, who).await;
            // If the loop has ended, the next supervisor finds the process gone.
            report(News::StrayGone(name, who));
        });
    }

    pub(super) fn gone(&mut self, who: Identity) {
        self.0.retain(|(_, stray)| *stray != who);
    }

    /// A process of this model that has not ended yet.
    pub(super) fn of(&self, name: &Name) -> Option<Identity> {
        self.0.iter().find(|(model, _)| model == name).map(|(_, who)| *who)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Identity> {
        self.0.iter().map(|(_, who)| *who)
    }
}

/// Ends a process and its group: SIGTERM, then SIGKILL until it is gone.
async fn put_away(host: Arc<dyn Host>, who: Identity) {
    let mut gone = exits::watch(host.clone(), who);
    let mut signal = Signal::Term;
    let began = host.awake();
    loop {
        if let Err(error) = host.signal(who, signal) {
            tracing::warn!(pid = who.pid, %error, "a stray backend could not be signalled");
        }
        let patience = if signal == Signal::Term { TERM } else { AGAIN };
        let ended = tokio::time::timeout(patience, &mut gone).await.is_ok();
        if ended && !host.group_alive(who) {
            return;
        }
        if ended || host.awake().since(began) >= TERM {
            signal = Signal::Kill;
        }
        if ended {
            gone = Box::pin(std::future::pending());
        }
    }
}
