//! What a request waits for before it goes to a backend: its turn, and a model that is loading.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::outcome::Outcome;
use super::queue::Turn;
use super::shared::{Settings, Shared};
use crate::gate::policy::answer;
use crate::gate::policy::contract::{Availability, Upstream};
use crate::gate::wire::{Client, Refusal};
use crate::host;

/// How long the supervisor may take to notice that a backend is gone, after a connection was cut.
const NOTICED: Duration = Duration::from_secs(2);
/// Pause between attempts to connect to a backend that refuses although it is reported ready.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest that a request may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    most: Duration,
    asked: bool,
}

impl Patience {
    /// `asked` is what the client prefers; the registry's `queue_timeout`, `most`, caps it.
    pub(super) fn of(asked: Option<Duration>, most: Duration) -> Self {
        Self { most: asked.map_or(most, |asked| asked.min(most)), asked: asked.is_some() }
    }

    /// The granted wait in seconds, if the client asked for one; such a request also waits for a manual model to load.
    pub(super) fn asked(self) -> Option<u64> {
        self.asked.then_some(self.most.as_secs())
    }

    /// The deadline of a wait that begins at `start`.
    pub(super) fn until(self, start: Instant) -> Instant {
        start + self.most
    }
}

/// A request that waits for the backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) client: IpAddr,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) settings: &'a Arc<Settings>,
    pub(super) patience: Patience,
}

/// A run that failed to answer a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    pub(super) generation: u64,
    pub(super) at: Instant,
    /// Whether the run may have read the request.
    pub(super) sent: bool,
}

impl Line<'_> {
    /// Waits for the turn that comes through `place`.
    pub(super) async fn turn(
        &self,
        mut place: oneshot::Receiver<Turn>,
        deadline: Instant,
        client: &Client,
    ) -> Result<Turn, Outcome> {
        let _queued = Queued::new(self.shared);
        let mut availability = self.shared.availability.clone();
        loop {
            tokio::select! {
                biased;
                turn = &mut place => return turn.map_err(|_| full().into()),
                () = client.left() => return Err(Outcome::Over),
                () = tokio::time::sleep_until(deadline) => return Err(waited().into()),
                changed = availability.changed() => {
                    if changed.is_err() {
                        return Err(closing().into());
                    }
                    let now = availability.borrow_and_update().clone();
                    if let Some(refusal) = self.turned_away(&now) {
                        return Err(refusal.into());
                    }
                }
            }
        }
    }

    /// Waits for a run to send to; after a `loss`, for another one.
    pub(super) async fn ready(
        &self,
        loss: Option<Loss>,
        deadline: Instant,
        client: &Client,
    ) -> Result<Upstream, Outcome> {
        let _queued = Queued::new(self.shared);
        let mut availability = self.shared.availability.clone();
        loop {
            let now = availability.borrow_and_update().clone();
            let mut until = deadline;
            if let Availability::Ready(upstream) = &now {
                match loss.filter(|loss| loss.generation == upstream.generation) {
                    None => return Ok(upstream.clone()),
                    // The same run as before. Nothing was sent, so try it again.
                    Some(loss) if !loss.sent && loss.at.elapsed() >= PAUSE => return Ok(upstream.clone()),
                    Some(loss) if loss.sent && loss.at.elapsed() >= NOTICED => {
                        return Err(lost("it closed the connection without answering").into());
                    }
                    Some(loss) => until = until.min(loss.at + if loss.sent { NOTICED } else { PAUSE }),
                }
            } else if let Some(refusal) = self.turned_away(&now) {
                return Err(refusal.into());
            }
            if Instant::now() >= deadline {
                let refusal = answer::unavailable(&self.settings.config, &now, host::now());
                return Err(refusal.unwrap_or_else(waited).into());
            }
            tokio::select! {
                biased;
                () = client.left() => return Err(Outcome::Over),
                changed = availability.changed() => {
                    if changed.is_err() {
                        return Err(closing().into());
                    }
                }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    fn turned_away(&self, now: &Availability) -> Option<Refusal> {
        answer::turned_away(&self.settings.config, now, host::now(), self.patience.asked().is_some())
    }
}

/// Counts a request as waiting for as long as it lives.
struct Queued<'a>(&'a Shared);

impl<'a> Queued<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.front.traffic.queue_grew();
        Self(shared)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.front.traffic.queue_shrank();
    }
}

/// 429: all places in the queue are taken.
pub(super) fn full() -> Refusal {
    let message = "too many requests are already waiting for this model";
    Refusal { retry_after: Some(Duration::from_secs(2)), ..Refusal::new(429, "queue_full", message) }
}

/// 502: the backend is gone, and the request is not sent again.
pub(super) fn lost(why: &str) -> Refusal {
    let message = format!("the model server ended before the answer was complete: {why}");
    Refusal { retry_after: Some(Duration::from_secs(5)), ..Refusal::new(502, "backend_lost", message) }
}

fn waited() -> Refusal {
    Refusal::unavailable("queue_timeout", "the request waited too long for its turn", Duration::from_secs(5))
}

fn closing() -> Refusal {
    Refusal::unavailable("closing", "this server is shutting down", Duration::from_secs(10))
}
