//! Idle sleep is held off while requests are in flight, and never otherwise.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::host::Host;

/// How long it is held off after the last request: a conversation is many, and each would start a program.
const LINGER: Duration = Duration::from_secs(5);

/// Follows the gates; ends when it is dropped, and the hold with it.
pub(super) struct Awake {
    /// Gates with requests in flight.
    busy: watch::Sender<usize>,
    task: AbortHandle,
}

impl Awake {
    /// Nothing is held off before a gate is busy.
    pub fn new(host: Arc<dyn Host>) -> Self {
        let busy = watch::Sender::new(0);
        let task = tokio::spawn(hold(host, busy.subscribe())).abort_handle();
        Self { busy, task }
    }

    /// Follows a gate until it is gone.
    pub fn follow(&self, mut in_flight: watch::Receiver<u64>) {
        let busy = self.busy.clone();
        tokio::spawn(async move {
            while in_flight.wait_for(|count| *count > 0).await.is_ok() {
                busy.send_modify(|gates| *gates += 1);
                let idle = in_flight.wait_for(|count| *count == 0).await.is_ok();
                busy.send_modify(|gates| *gates -= 1);
                if !idle {
                    return;
                }
            }
        });
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes the hold when the first gate becomes busy, lets go when the last one has been idle for [`LINGER`].
async fn hold(host: Arc<dyn Host>, mut busy: watch::Receiver<usize>) {
    while busy.wait_for(|gates| *gates > 0).await.is_ok() {
        let held = match host.hold_sleep() {
            Ok(held) => Some(held),
            Err(error) if error.kind() == ErrorKind::Unsupported => return,
            Err(error) => {
                tracing::warn!(%error, "idle sleep cannot be held off: a long answer may be cut by it");
                None
            }
        };
        loop {
            if busy.wait_for(|gates| *gates == 0).await.is_err() {
                return;
            }
            if timeout(LINGER, busy.wait_for(|gates| *gates > 0)).await.is_err() {
                break;
            }
        }
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;
    use crate::memory::Bytes;

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_is_held_off_from_the_first_request_to_a_little_after_the_last() {
        let host = Fake::new(Bytes::gb(128));
        let awake = Awake::new(host.clone());
        let (small, large) = (watch::Sender::new(0), watch::Sender::new(0));
        awake.follow(small.subscribe());
        awake.follow(large.subscribe());
        settle().await;
        assert_eq!(host.sleep_held(), (false, 0));
        small.send_replace(3);
        settle().await;
        assert_eq!(host.sleep_held(), (true, 1));
        large.send_replace(1);
        small.send_replace(0);
        tokio::time::sleep(LINGER * 10).await;
        assert_eq!(host.sleep_held(), (true, 1), "the other gate is busy");
        large.send_replace(0);
        tokio::time::sleep(LINGER / 2).await;
        assert_eq!(host.sleep_held(), (true, 1));
        small.send_replace(1);
        tokio::time::sleep(LINGER * 2).await;
        assert_eq!(host.sleep_held(), (true, 1), "one hold for the whole conversation");
        small.send_replace(0);
        tokio::time::sleep(LINGER * 2).await;
        assert_eq!(host.sleep_held(), (false, 1));
        large.send_replace(1);
        settle().await;
        assert_eq!(host.sleep_held(), (true, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_goes_away_and_the_supervisors_end_let_go() {
        let host = Fake::new(Bytes::gb(128));
        let awake = Awake::new(host.clone());
        let gate = watch::Sender::new(1);
        awake.follow(gate.subscribe());
        settle().await;
        assert!(host.sleep_held().0);
        drop(gate);
        tokio::time::sleep(LINGER * 2).await;
        assert!(!host.sleep_held().0);
        let gate = watch::Sender::new(1);
        awake.follow(gate.subscribe());
        settle().await;
        assert!(host.sleep_held().0);
        drop(awake);
        settle().await;
        assert!(!host.sleep_held().0);
    }
}
