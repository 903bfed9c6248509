//! What is in effect while a program runs that the models yield to: a pace for all backends, and requests that wait.
//! [`crate::memory::pressure`] decides when.

use tokio::sync::watch;

use super::step::Step;
use crate::gate::Availability;
use crate::memory::pressure::Policy;
use crate::supervisor::records::Note;
use crate::units::Percent;

/// The pace and the hold in effect.
#[derive(Debug)]
pub(crate) struct GivingWay {
    /// Followed by the probe of each backend, which passes it on to the launcher.
    pace: watch::Sender<Option<Percent>>,
    /// The programs that requests wait for; `None`: they do not wait.
    held_for: Option<String>,
}

impl Default for GivingWay {
    fn default() -> Self {
        Self { pace: watch::Sender::new(None), held_for: None }
    }
}

impl GivingWay {
    /// Subscribes to the pace of all backends.
    pub(crate) fn follow_pace(&self) -> watch::Receiver<Option<Percent>> {
        self.pace.subscribe()
    }

    /// The pace in effect (`None`: no limit), and whether requests wait.
    pub(crate) fn in_force(&self) -> (Option<Percent>, bool) {
        (*self.pace.borrow(), self.held_for.is_some())
    }

    /// What gates are told about a ready model instead; `None`: that it is ready.
    pub(crate) fn instead_of_ready(&self) -> Option<Availability> {
        self.held_for.clone().map(|programs| Availability::Held { programs })
    }

    /// Brings pace and hold in line with the policy.
    pub(super) fn follow(&mut self, policy: &Policy) -> Vec<Step> {
        let programs = policy.yielding_to().join(", ");
        let pace = self.set_pace(policy.pace(), &programs);
        let hold = self.set_hold(policy.holds().then_some(programs));
        pace.into_iter().map(Step::Note).chain(hold).collect()
    }

    fn set_pace(&self, pace: Option<Percent>, programs: &str) -> Option<Note> {
        let changed = self.pace.send_if_modified(|now| std::mem::replace(now, pace) != pace);
        let text = match pace {
            Some(share) => format!("pacing for {programs}: the models work {share} of the time"),
            None => "no longer pacing: the models work all of the time".to_owned(),
        };
        changed.then(|| Note::new("pace", text))
    }

    fn set_hold(&mut self, held_for: Option<String>) -> Vec<Step> {
        let before = std::mem::replace(&mut self.held_for, held_for.clone());
        if before == held_for {
            return Vec::new();
        }
        let text = match (before, held_for) {
            (None, Some(programs)) => format!("holding for {programs}: new requests wait in line"),
            (Some(_), None) => "no longer holding: requests go to the models".to_owned(),
            // Another program: the same wait continues.
            _ => return vec![Step::Publish],
        };
        vec![Step::Note(Note::new("hold", text)), Step::Publish]
    }
}
