//! Prevents idle sleep of the machine while requests are in flight, and only then.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::gate::Traffic;
use crate::host::Host;

/// Idle sleep is prevented for one to two times this long after the last byte of an answer. A conversation is many
/// requests, and each would otherwise start a program.
const LINGER: Duration = Duration::from_secs(5);

/// Follows the gates; dropping it ends that, and allows sleep again.
pub(super) struct Awake {
    /// Number of gates that are or were just busy.
    busy: watch::Sender<usize>,
    task: AbortHandle,
}

/// Follows one gate until it is dropped.
pub(super) struct Followed(AbortHandle);

impl Awake {
    /// Follows no gate yet.
    pub(super) fn new(host: Arc<dyn Host>) -> Self {
        let busy = watch::Sender::new(0);
        let task = tokio::spawn(hold(host, busy.subscribe())).abort_handle();
        Self { busy, task }
    }

    /// Follows the requests of one gate.
    pub(super) fn follow(&self, traffic: Arc<Traffic>) -> Followed {
        let busy = self.busy.clone();
        let follow = async move {
            loop {
                traffic.busy().await;
                let _busy = Busy::new(&busy);
                // Polled, since a notification per request would cost more than all the gate does for it.
                while !is_quiet(&traffic) {
                    sleep(LINGER).await;
                }
            }
        };
        Followed(tokio::spawn(follow).abort_handle())
    }
}

fn is_quiet(traffic: &Traffic) -> bool {
    traffic.in_flight() == 0 && traffic.last_activity().is_none_or(|last| last.elapsed() >= LINGER)
}

/// Counts one gate as busy until it is dropped.
struct Busy<'a>(&'a watch::Sender<usize>);

impl<'a> Busy<'a> {
    fn new(gates: &'a watch::Sender<usize>) -> Self {
        gates.send_modify(|gates| *gates += 1);
        Self(gates)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|gates| *gates -= 1);
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Prevents sleep from when the first gate becomes busy until the last one is quiet.
async fn hold(host: Arc<dyn Host>, mut busy: watch::Receiver<usize>) {
    while busy.wait_for(|gates| *gates > 0).await.is_ok() {
        let held = match host.hold_sleep() {
            Ok(held) => Some(held),
            Err(error) if error.kind() == ErrorKind::Unsupported => return,
            Err(error) => {
                tracing::warn!(%error, "cannot prevent idle sleep: it may interrupt a long answer");
                None
            }
        };
        if busy.wait_for(|gates| *gates == 0).await.is_err() {
            return;
        }
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::host::fake::Fake;
    use crate::units::Bytes;

    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }

    /// Ends a request with its last byte.
    fn answered(traffic: &Traffic) {
        traffic.heard(Instant::now());
        traffic.end();
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_is_prevented_from_the_first_request_to_shortly_after_the_last() {
        let host = Fake::new(Bytes::gb(128));
        let awake = Awake::new(host.clone());
        let (small, large) = (Arc::new(Traffic::default()), Arc::new(Traffic::default()));
        let _followed = [awake.follow(small.clone()), awake.follow(large.clone())];
        settle().await;
        assert_eq!(host.sleep_held(), (false, 0));
        small.begin();
        settle().await;
        assert_eq!(host.sleep_held(), (true, 1));
        large.begin();
        answered(&small);
        sleep(LINGER * 10).await;
        assert_eq!(host.sleep_held(), (true, 1), "the other gate is busy");
        answered(&large);
        sleep(LINGER / 2).await;
        assert_eq!(host.sleep_held(), (true, 1));
        small.begin();
        sleep(LINGER * 3).await;
        assert_eq!(host.sleep_held(), (true, 1), "one hold for the whole conversation");
        answered(&small);
        sleep(LINGER * 9 / 10).await;
        assert_eq!(host.sleep_held(), (true, 1));
        sleep(LINGER * 12 / 10).await;
        assert_eq!(host.sleep_held(), (false, 1));
        large.begin();
        settle().await;
        assert_eq!(host.sleep_held(), (true, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn removing_a_gate_or_ending_the_supervisor_allows_sleep_again() {
        let host = Fake::new(Bytes::gb(128));
        let awake = Awake::new(host.clone());
        let gate = Arc::new(Traffic::default());
        let followed = awake.follow(gate.clone());
        gate.begin();
        settle().await;
        assert!(host.sleep_held().0);
        drop(followed);
        settle().await;
        assert!(!host.sleep_held().0);
        let _followed = awake.follow(gate);
        settle().await;
        assert!(host.sleep_held().0);
        drop(awake);
        settle().await;
        assert!(!host.sleep_held().0);
    }
}
