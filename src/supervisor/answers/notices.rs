//! Notifications to the owner: feeds the notifier with events, and watches conditions that are not events.

use std::sync::Arc;

use crate::api::EventRecord;
use crate::gate::keys;
use crate::notify::{self, Notifier, Sent, Trouble, ways};
use crate::registry::{NotifyKind, Registry};
use crate::supervisor::records::{Note, keys_file, written};

pub(super) struct Notices {
    notifier: Notifier,
    /// The last seen state of the disk and the keys.
    trouble: Trouble,
}

impl Notices {
    /// `past`: the history, as far as it is in memory; an episode that started there is not notified again.
    pub(super) fn new(
        registry: &Registry,
        past: &[EventRecord],
        report: Arc<dyn Fn(Sent) + Send + Sync>,
    ) -> Self {
        Self { notifier: Notifier::new(registry, past, report), trouble: Trouble::default() }
    }

    pub(super) fn follow(&mut self, registry: &Registry) {
        self.notifier.follow(registry);
    }

    pub(super) fn hear(&mut self, events: &[EventRecord], registry: &Registry) {
        for event in events {
            self.notifier.heard(event, registry);
        }
    }

    /// Handles the result of a notification; a failure is noted.
    pub(super) fn sent(&mut self, sent: Sent) -> Option<Note> {
        let problem = self.notifier.sent(sent)?;
        let text = format!("a notification was not sent: {problem}");
        Some(Note::new("notify_failed", text).hint("mlxctl notify --test"))
    }

    /// Notes when the disk starts and stops refusing writes, and which keys were revoked. `problem`: why something cannot
    /// be written now.
    pub(super) fn look(&mut self, problem: Option<&str>, registry: &Registry) -> Vec<Note> {
        let news = self.trouble.disk(problem);
        news.into_iter().chain(self.revoked_keys(registry)).map(note).collect()
    }

    /// Costs one `stat` unless the file has changed, and nothing if no such notifications are configured.
    fn revoked_keys(&mut self, registry: &Registry) -> Vec<notify::News> {
        let notify = &registry.notify;
        if ways(notify).is_empty() || !notify.kinds.contains(&NotifyKind::KeyRevoked) {
            self.trouble.forget_keys();
            return Vec::new();
        }
        let file = keys_file(registry);
        let at = written(&file);
        if !self.trouble.keys_changed(at) {
            return Vec::new();
        }
        match keys::list(&file) {
            Ok(keys) => self.trouble.keys(at, keys.into_iter().map(|key| key.name).collect()),
            // Not a file of keys: the gates report that, and the next check tries again.
            Err(_) => Vec::new(),
        }
    }
}

fn note(news: notify::News) -> Note {
    let note = Note::new(news.kind, news.text);
    match news.hint {
        Some(hint) => note.hint(hint),
        None => note,
    }
}
