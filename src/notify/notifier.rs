//! Sends messages one after the other, in the background.

use std::collections::VecDeque;
use std::sync::Arc;

use super::send::{Way, send, ways};
use super::{Episodes, Message};
use crate::api::EventRecord;
use crate::registry::{Notify, Registry, Start};

/// The most messages that wait; further ones are dropped, which is reported.
const WAITING: usize = 16;

/// The outcome of one message: what went wrong, if anything.
#[derive(Debug)]
pub(crate) struct Sent(Result<(), String>);

/// Receives events and notifies the owner of some. Costs nothing if `[notify]` names no way.
pub(crate) struct Notifier {
    notify: Notify,
    path: String,
    ways: Vec<Way>,
    episodes: Episodes,
    waiting: VecDeque<Message>,
    /// A child is at work; it reports to [`Notifier::sent`].
    busy: bool,
    dropped: u32,
    /// The last message failed, and that was reported.
    failing: bool,
    report: Arc<dyn Fn(Sent) + Send + Sync>,
}

impl Notifier {
    /// `past`: earlier events, about which there is no new notification; `report` passes the outcome of each message to
    /// [`Notifier::sent`].
    pub(crate) fn new(
        registry: &Registry,
        past: &[EventRecord],
        report: Arc<dyn Fn(Sent) + Send + Sync>,
    ) -> Self {
        let mut episodes = Episodes::default();
        for event in past {
            episodes.take(event, start(registry, event));
        }
        Self {
            ways: ways(&registry.notify),
            notify: registry.notify.clone(),
            path: registry.agent.path.clone(),
            episodes,
            waiting: VecDeque::new(),
            busy: false,
            dropped: 0,
            failing: false,
            report,
        }
    }

    /// Adopts the `[notify]` settings of a changed registry.
    pub(crate) fn follow(&mut self, registry: &Registry) {
        self.ways = ways(&registry.notify);
        self.notify.clone_from(&registry.notify);
        self.path.clone_from(&registry.agent.path);
    }

    /// Receives an event. Episodes are tracked even without a way to notify, so that one added later sends no old news.
    pub(crate) fn heard(&mut self, event: &EventRecord, registry: &Registry) {
        let Some(kind) = self.episodes.take(event, start(registry, event)) else { return };
        if self.ways.is_empty() || !self.notify.kinds.contains(&kind) {
            return;
        }
        if self.waiting.len() == WAITING {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.waiting.push_back(Message::new(event, kind));
        self.go_on();
    }

    /// One message is done, so the next is sent. Returns what to report: the first failure after a success, in one
    /// sentence.
    pub(crate) fn sent(&mut self, Sent(outcome): Sent) -> Option<String> {
        self.busy = false;
        let dropped = std::mem::take(&mut self.dropped);
        self.go_on();
        let problem = match (outcome, dropped) {
            (Ok(()), 0) => None,
            (Err(why), 0) => Some(why),
            (outcome, dropped) => {
                let why = outcome.err().map(|why| format!("; {why}")).unwrap_or_default();
                Some(format!("{dropped} came while {WAITING} waited, and were dropped{why}"))
            }
        };
        let said = std::mem::replace(&mut self.failing, problem.is_some());
        problem.filter(|_| !said)
    }

    fn go_on(&mut self) {
        if self.busy {
            return;
        }
        let Some(message) = self.waiting.pop_front() else { return };
        self.busy = true;
        let (ways, path, report) = (self.ways.clone(), self.path.clone(), self.report.clone());
        let work = move || report(Sent(all(&ways, &message, &path)));
        // Not a task of the runtime, whose shutdown would wait for it.
        let thread = std::thread::Builder::new().name("notify".into()).spawn(work);
        if let Err(error) = thread {
            (self.report)(Sent(Err(format!("it could not be sent: {error}"))));
        }
    }
}

fn start(registry: &Registry, event: &EventRecord) -> Option<Start> {
    let name = event.model.as_deref()?;
    registry.models.iter().find(|model| model.name == name).map(|model| model.start)
}

/// Tries each way, even if others fail.
fn all(ways: &[Way], message: &Message, path: &str) -> Result<(), String> {
    let failed: Vec<String> = ways
        .iter()
        .filter_map(|way| send(way, message, path).err().map(|why| format!("{}: {why}", way.name())))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn registry(notify: &str) -> Registry {
        let text = format!(
            "[notify]\n{notify}\n[[model]]\nname = \"a\"\nrepo = \"x/y\"\nport = 1\nstart = \"always\"\n"
        );
        Registry::parse(std::path::Path::new("/m.toml"), &text).unwrap()
    }

    fn event(seq: u64, kind: &str) -> EventRecord {
        EventRecord {
            seq,
            at: "2026-02-08T10:00:00Z".into(),
            model: (kind != "key_revoked").then(|| "a".to_owned()),
            kind: kind.into(),
            text: format!("event {seq}"),
            hint: None,
        }
    }

    fn notifier(registry: &Registry, past: &[EventRecord]) -> (Notifier, mpsc::Receiver<Sent>) {
        let (sender, sent) = mpsc::channel();
        (Notifier::new(registry, past, Arc::new(move |done| drop(sender.send(done)))), sent)
    }

    /// The numbers of the events that were sent, in order.
    fn told(file: &std::path::Path) -> Vec<u64> {
        let text = fs_err::read_to_string(file).unwrap_or_default();
        let seq = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64();
        text.lines().map(|line| seq(line).unwrap()).collect()
    }

    #[test]
    fn there_is_one_child_at_a_time_and_a_full_queue_drops_and_reports_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let (file, gate) = (folder.path().join("told"), folder.path().join("gate"));
        let script =
            format!("while [ ! -e {} ]; do sleep 0.02; done; cat >> {}", gate.display(), file.display());
        let registry = registry(&format!("command = [\"/bin/sh\", \"-c\", {script:?}]"));
        let (mut notifier, sent) = notifier(&registry, &[]);
        for seq in 0..20 {
            notifier.heard(&event(seq, "key_revoked"), &registry);
        }
        assert!(told(&file).is_empty(), "hearing of an event does not wait for the child");
        fs_err::write(&gate, "").unwrap();
        let mut said = Vec::new();
        for _ in 0..17 {
            let done = sent.recv_timeout(Duration::from_secs(60)).unwrap();
            said.extend(notifier.sent(done));
        }
        assert_eq!(told(&file), (0..17).collect::<Vec<_>>());
        assert_eq!(said, ["3 came while 16 waited, and were dropped"]);
    }

    #[test]
    fn a_failure_is_reported_once_until_a_message_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let marker = folder.path().join("broken");
        fs_err::write(&marker, "").unwrap();
        let script = format!("! test -e {}", marker.display());
        let registry = registry(&format!("command = [\"/bin/sh\", \"-c\", {script:?}]"));
        let (mut notifier, sent) = notifier(&registry, &[]);
        let mut try_it = |seq| {
            notifier.heard(&event(seq, "key_revoked"), &registry);
            notifier.sent(sent.recv_timeout(Duration::from_secs(60)).unwrap())
        };
        assert!(try_it(1).unwrap().starts_with("command: /bin/sh failed"));
        assert_eq!(try_it(2), None);
        fs_err::remove_file(&marker).unwrap();
        assert_eq!(try_it(3), None);
        fs_err::write(&marker, "").unwrap();
        assert!(try_it(4).is_some());
    }

    #[test]
    fn what_the_last_supervisor_sent_is_not_sent_again_nor_are_kinds_that_are_not_chosen() {
        let chosen = registry("command = [\"/usr/bin/true\"]\nkinds = [\"failed\"]");
        let (mut notifier, sent) = notifier(&chosen, &[event(1, "failed")]);
        notifier.heard(&event(2, "failed"), &chosen);
        notifier.heard(&event(3, "refused"), &chosen);
        assert!(!notifier.busy);
        notifier.heard(&event(4, "ready"), &chosen);
        notifier.heard(&event(5, "failed"), &chosen);
        assert!(notifier.busy && sent.recv_timeout(Duration::from_secs(60)).is_ok());
    }

    #[test]
    fn without_a_way_nothing_is_queued() {
        let none = registry("");
        let (mut notifier, sent) = notifier(&none, &[]);
        notifier.heard(&event(1, "failed"), &none);
        assert!(!notifier.busy && notifier.waiting.is_empty() && sent.try_recv().is_err());
    }
}
