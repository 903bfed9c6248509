//! Which events the owner is notified of: the first of each episode. Pure.

use std::collections::BTreeSet;

use crate::api::EventRecord;
use crate::registry::{NotifyKind, Start};

/// The current problems that the owner was notified of. An episode is one kind of problem of one model, from its first
/// event until the model is ready again.
#[derive(Debug, Default)]
pub(crate) struct Episodes(BTreeSet<(NotifyKind, String)>);

impl Episodes {
    /// Records an event. Returns the kind of its notification if it begins an episode. `start`: of the event's model,
    /// `None` if the registry has no such model.
    pub(crate) fn take(&mut self, event: &EventRecord, start: Option<Start>) -> Option<NotifyKind> {
        let model = event.model.as_deref();
        let subject = model.unwrap_or_default().to_owned();
        let (kind, subject) = match (event.kind.as_str(), model) {
            ("failed" | "quarantine", Some(_)) if start == Some(Start::Always) => {
                (NotifyKind::Failed, subject)
            }
            ("refused", Some(_)) => (NotifyKind::Refused, subject),
            // Every supervisor of a boot notes it again; the text contains the report's name.
            ("kernel_panic", None) => (NotifyKind::Panic, event.text.clone()),
            ("disk_problem", None) => (NotifyKind::Disk, subject),
            // Each key is an episode of its own.
            ("key_revoked", None) => return Some(NotifyKind::KeyRevoked),
            ("ready", Some(model)) => {
                self.0.retain(|(_, subject)| subject != model);
                return None;
            }
            ("disk_recovered", None) => {
                self.0.remove(&(NotifyKind::Disk, subject));
                return None;
            }
            // Someone has started a model by force and so dealt with the panics.
            ("kernel_panic", Some(_)) => {
                self.0.retain(|(kind, _)| *kind != NotifyKind::Panic);
                return None;
            }
            _ => return None,
        };
        self.0.insert((kind, subject)).then_some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Start::{Always, Manual};

    fn event(model: Option<&str>, kind: &str, text: &str) -> EventRecord {
        EventRecord {
            seq: 1,
            at: "2026-02-08T10:00:00Z".into(),
            model: model.map(str::to_owned),
            kind: kind.into(),
            text: text.into(),
            hint: None,
        }
    }

    fn told(episodes: &mut Episodes, model: &str, kind: &str, start: Start) -> Option<NotifyKind> {
        episodes.take(&event(Some(model), kind, ""), Some(start))
    }

    #[test]
    fn the_same_problem_is_reported_again_only_after_the_model_was_ready() {
        let mut episodes = Episodes::default();
        assert_eq!(told(&mut episodes, "a", "quarantine", Always), Some(NotifyKind::Failed));
        for kind in ["quarantine", "spawned", "crashed", "backoff", "stopped", "failed"] {
            assert_eq!(told(&mut episodes, "a", kind, Always), None, "{kind}");
        }
        assert_eq!(told(&mut episodes, "b", "failed", Always), Some(NotifyKind::Failed), "another model");
        assert_eq!(told(&mut episodes, "a", "refused", Always), Some(NotifyKind::Refused), "another kind");
        assert_eq!(told(&mut episodes, "a", "ready", Always), None);
        assert_eq!(told(&mut episodes, "a", "failed", Always), Some(NotifyKind::Failed));
        assert_eq!(told(&mut episodes, "b", "failed", Always), None, "b was not ready in between");
    }

    #[test]
    fn an_on_demand_models_refusal_is_reported_but_its_failure_is_not() {
        let mut episodes = Episodes::default();
        assert_eq!(told(&mut episodes, "m", "failed", Manual), None);
        assert_eq!(episodes.take(&event(Some("gone"), "failed", ""), None), None);
        assert_eq!(told(&mut episodes, "m", "refused", Manual), Some(NotifyKind::Refused));
        assert_eq!(told(&mut episodes, "m", "refused", Manual), None);
    }

    #[test]
    fn each_panic_is_reported_once_and_each_key_always() {
        let mut episodes = Episodes::default();
        let mut take = |model, kind, text| episodes.take(&event(model, kind, text), None);
        assert_eq!(take(None, "kernel_panic", "one"), Some(NotifyKind::Panic));
        assert_eq!(take(None, "kernel_panic", "one"), None, "found again by the next supervisor");
        assert_eq!(take(None, "kernel_panic", "two"), Some(NotifyKind::Panic));
        assert_eq!(take(Some("m"), "kernel_panic", "started by force"), None);
        assert_eq!(take(None, "kernel_panic", "one"), Some(NotifyKind::Panic));
        assert_eq!(take(None, "key_revoked", "x"), Some(NotifyKind::KeyRevoked));
        assert_eq!(take(None, "key_revoked", "x"), Some(NotifyKind::KeyRevoked));
        assert_eq!(take(None, "disk_problem", "full"), Some(NotifyKind::Disk));
        assert_eq!(take(None, "disk_problem", "read-only"), None);
        assert_eq!(take(None, "disk_recovered", ""), None);
        assert_eq!(take(None, "disk_problem", "full"), Some(NotifyKind::Disk));
        assert_eq!(take(None, "notify_failed", ""), None, "a failure to notify is not reported");
    }
}
