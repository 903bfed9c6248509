//! What the owner is told of: feeds the notifier, and watches what is a condition rather than an event.

use std::sync::Arc;

use crate::api::EventRecord;
use crate::gate::keys;
use crate::notify::{self, Notifier, Sent, Trouble, ways};
use crate::registry::{NotifyKind, Registry};
use crate::supervisor::records::{Note, keys_file, written};

pub(super) struct Notices {
    notifier: Notifier,
    /// What of the disk and of the keys was seen last.
    trouble: Trouble,
}

impl Notices {
    /// `past`: as much as is at hand; an episode that began there is not told again.
    pub(super) fn new(
        registry: &Registry,
        past: &[EventRecord],
        report: Arc<dyn Fn(Sent) + Send + Sync>,
    ) -> Self {
        Self { notifier: Notifier::new(registry, past, report), trouble: Trouble::default() }
    }

    /// Another registry is in force.
    pub(super) fn follow(&mut self, registry: &Registry) {
        self.notifier.follow(registry);
    }

    pub(super) fn hear(&mut self, events: &[EventRecord], registry: &Registry) {
        for event in events {
            self.notifier.heard(event, registry);
        }
    }

    /// What came of a notification.
    pub(super) fn sent(&mut self, sent: Sent) -> Option<Note> {
        let problem = self.notifier.sent(sent)?;
        let text = format!("a notification was not sent: {problem}");
        Some(Note::new("notify_failed", text).hint("mlxctl notify --test"))
    }

    /// Notes when the disk begins to refuse writes and when that ends, and which keys were revoked. `problem`: why
    /// something cannot be written now.
    pub(super) fn look(&mut self, problem: Option<&str>, registry: &Registry) -> Vec<Note> {
        let news = self.trouble.disk(problem);
        news.into_iter().chain(self.revoked_keys(registry)).map(note).collect()
    }

    /// One `stat`, unless the file was written to, and only where somebody wants to be told.
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
            // What it holds is no keys: the gates say so, and the next look tries again.
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
