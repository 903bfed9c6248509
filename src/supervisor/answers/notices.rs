//! Feeds the notifier, and notes what comes of it.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::gate::keys;
use crate::notify::{Notifier, Sent, ways};
use crate::registry::{NotifyKind, Registry};
use crate::supervisor::driver::Driver;
use crate::supervisor::driver::reload::written;
use crate::supervisor::handle::Input;
use crate::supervisor::records::journal::Journal;

/// Of the past, as much as is at hand: an episode that began there is not told again.
pub(in crate::supervisor) fn notifier(
    registry: &Registry,
    journal: &Journal,
    inbox: &mpsc::UnboundedSender<Input>,
) -> Notifier {
    let inbox = inbox.clone();
    // The loop may have ended.
    let report = Arc::new(move |sent| drop(inbox.send(Input::Notified(sent))));
    Notifier::new(registry, &journal.after(None, usize::MAX), report)
}

impl Driver {
    /// What came of a notification.
    pub fn notified(&mut self, sent: Sent) {
        if let Some(problem) = self.notifier.sent(sent) {
            let text = format!("a notification was not sent: {problem}");
            self.note_hinted(None, "notify_failed", &text, Some("mlxctl notify --test"));
        }
    }

    /// Notes when the disk begins to refuse writes and when that ends, and which keys were revoked.
    pub fn look_for_trouble(&mut self) {
        let problems = [self.journal.problem(), self.learned.problem(), self.disk_problem.as_deref()];
        let news = self.trouble.disk(problems.into_iter().flatten().next());
        let news: Vec<_> = news.into_iter().chain(self.revoked_keys()).collect();
        for news in news {
            self.note_hinted(None, news.kind, &news.text, news.hint);
        }
    }

    /// One `stat`, unless the file was written to, and only where somebody wants to be told.
    fn revoked_keys(&mut self) -> Vec<crate::notify::News> {
        let notify = &self.registry.notify;
        if ways(notify).is_empty() || !notify.kinds.contains(&NotifyKind::KeyRevoked) {
            self.trouble.forget_keys();
            return Vec::new();
        }
        let file = self.registry.paths.state.join("keys.json");
        let at = written(&file);
        if !self.trouble.keys_changed(at) {
            return Vec::new();
        }
        match keys::list(&file) {
            Ok(keys) => self.trouble.keys(at, keys.into_iter().map(|key| key.name).collect()),
            // What it holds is no keys: the gates say so, and the next look tries again.
            Err(_) => Vec::new(),
        }
    }
}
