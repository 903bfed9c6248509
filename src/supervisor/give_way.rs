//! What lasts for as long as a program runs that the models yield to: a pace for all of them, and requests that wait.
//! Whether it does is [`crate::memory::pressure`]'s to say; this carries it out.

use tokio::sync::watch;

use super::driver::Driver;
use crate::gate::Availability;
use crate::units::Percent;

/// What is in force.
#[derive(Debug)]
pub(super) struct GivingWay {
    /// Each backend's launcher is told what stands here.
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
    /// For whoever talks to a launcher.
    pub fn pace(&self) -> watch::Receiver<Option<Percent>> {
        self.pace.subscribe()
    }

    /// The pace in force, and whether requests wait: for `status`.
    pub fn in_force(&self) -> (Option<Percent>, bool) {
        (*self.pace.borrow(), self.held_for.is_some())
    }

    /// What a gate is told of a model that is ready; `None`: just that.
    pub fn instead_of_ready(&self) -> Option<Availability> {
        self.held_for.clone().map(|programs| Availability::Held { programs })
    }
}

impl Driver {
    /// Takes in what the policy says: after each look, and each change of the settings.
    pub fn give_way(&mut self) {
        let programs = self.policy.yielding_to().join(", ");
        let pace = self.policy.pace();
        let changed = self.giving_way.pace.send_if_modified(|now| std::mem::replace(now, pace) != pace);
        if changed {
            let text = match pace {
                Some(share) => format!("pacing for {programs}: the models work {share} of the time"),
                None => "no longer pacing: the models work all of the time".to_owned(),
            };
            self.note(None, "pace", &text);
        }
        let held_for = self.policy.holds().then_some(programs);
        let before = std::mem::replace(&mut self.giving_way.held_for, held_for.clone());
        if before == held_for {
            return;
        }
        match (&before, &held_for) {
            (None, Some(programs)) => {
                let text = format!("holding for {programs}: new requests wait in line");
                self.note(None, "hold", &text);
            }
            (Some(_), None) => self.note(None, "hold", "no longer holding: requests go to the models"),
            // Another program: the same wait goes on.
            _ => {}
        }
        self.publish();
    }
}
