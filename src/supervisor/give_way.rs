//! What lasts for as long as a program runs that the models yield to: a pace for all of them, and requests that wait.
//! Whether it does is [`crate::memory::pressure`]'s to say.

use tokio::sync::watch;

use crate::gate::Availability;
use crate::units::Percent;

/// What is in force.
#[derive(Debug)]
pub(super) struct GivingWay {
    /// Each backend's launcher is told what stands here.
    pub pace: watch::Sender<Option<Percent>>,
    /// The programs that requests wait for; `None`: they do not wait.
    pub held_for: Option<String>,
}

impl Default for GivingWay {
    fn default() -> Self {
        Self { pace: watch::Sender::new(None), held_for: None }
    }
}

impl GivingWay {
    /// For whoever talks to a launcher.
    pub fn follow_pace(&self) -> watch::Receiver<Option<Percent>> {
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
