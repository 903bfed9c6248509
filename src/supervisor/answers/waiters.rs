//! Channels of the commands that wait for their outcome.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::lifecycle::{Outcome, WaiterId};

#[derive(Debug, Default)]
pub(super) struct Waiters {
    replies: HashMap<WaiterId, oneshot::Sender<Outcome>>,
    last: u64,
}

impl Waiters {
    /// Registers a waiter; the id goes with its command.
    pub(super) fn register(&mut self) -> (WaiterId, oneshot::Receiver<Outcome>) {
        self.last += 1;
        let (reply, outcome) = oneshot::channel();
        let id = WaiterId(self.last);
        self.replies.insert(id, reply);
        (id, outcome)
    }

    pub(super) fn reply(&mut self, waiter: WaiterId, outcome: Outcome) {
        if let Some(reply) = self.replies.remove(&waiter) {
            // The asker may have gone.
            let _ = reply.send(outcome);
        }
    }
}
