//! What is on disk and outlives this process: the history, the checkpoints for the next supervisor of this boot, the
//! lock.

mod checkpoint;
mod checkpoints;
mod journal;
mod lock;
mod logs;
mod paths;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use tokio::sync::mpsc;

pub(crate) use checkpoint::Checkpoint;
use checkpoints::Checkpoints;
pub use journal::Journal;
pub(crate) use lock::Lock;
pub(crate) use lock::LockError;
pub(crate) use logs::{rotate_own, trim};
pub(crate) use paths::{keys_file, log_file, written};

use crate::api::{Counts, EventRecord};
use crate::backend::record;
use crate::lifecycle::Name;
use crate::metrics::Noted;

/// An event to be added to the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    model: Option<Name>,
    kind: &'static str,
    text: String,
    hint: Option<String>,
}

impl Note {
    /// An event about the supervisor itself. `kind`: one word; `text`: one sentence.
    pub(super) fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self { model: None, kind, text: text.into(), hint: None }
    }

    pub(super) fn of(model: &Name, kind: &'static str, text: impl Into<String>) -> Self {
        Self { model: Some(model.clone()), ..Self::new(kind, text) }
    }

    /// Adds what a person can do about it.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Everything that a supervisor writes to disk. Owned by the loop.
pub(crate) struct Records {
    journal: Journal,
    /// How often each kind of event was noted, by model.
    noted: Noted,
    followers: Vec<mpsc::Sender<EventRecord>>,
    /// Events since the last call of [`Records::fresh`].
    fresh: Vec<EventRecord>,
    checkpoints: Checkpoints,
    /// Held as long as this value lives.
    lock: Lock,
}

impl Records {
    /// Continues the history in `state`. `boot_id`: that of this boot.
    pub(super) fn open(state: &Path, boot_id: &str, lock: Lock) -> Self {
        Self {
            journal: Journal::open(state),
            noted: BTreeMap::new(),
            followers: Vec::new(),
            fresh: Vec::new(),
            checkpoints: Checkpoints::new(boot_id),
            lock,
        }
    }

    /// Adds an event to the history and the log, and sends it to followers.
    pub(super) fn note(&mut self, note: Note) {
        let Note { model, kind, text, hint } = note;
        let model = model.as_deref();
        tracing::info!(model, kind, "{text}");
        *self.noted.entry((model.map(str::to_owned), kind.to_owned())).or_default() += 1;
        let record = self.journal.note(SystemTime::now(), model, kind, &text, hint.as_deref());
        // A follower that is behind or gone is dropped; it can query again from its last number.
        self.followers.retain(|follower| follower.try_send(record.clone()).is_ok());
        self.fresh.push(record);
    }

    /// The events since the last call.
    pub(super) fn fresh(&mut self) -> Vec<EventRecord> {
        std::mem::take(&mut self.fresh)
    }

    /// Sends every event from now on to `follower`.
    pub(super) fn follow(&mut self, follower: mpsc::Sender<EventRecord>) {
        // Otherwise followers that are gone would stay until the next event.
        self.followers.retain(|follower| !follower.is_closed());
        self.followers.push(follower);
    }

    pub(super) fn after(&self, after: Option<u64>, limit: usize) -> Vec<EventRecord> {
        self.journal.after(after, limit)
    }

    /// How often each kind of event was noted, by model.
    pub(super) fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Retries events that could not be written.
    pub(super) fn try_again(&mut self) {
        self.journal.try_again();
    }

    /// Why the history could not be written; `None`: it was.
    pub(super) fn journal_problem(&self) -> Option<&str> {
        self.journal.problem()
    }

    /// Why a checkpoint could not be written; `None`: all were.
    pub(super) fn checkpoint_problem(&self) -> Option<&str> {
        self.checkpoints.problem()
    }

    /// The boot that checkpoints apply to.
    pub(super) fn boot_id(&self) -> &str {
        self.checkpoints.boot_id()
    }

    /// Reads what an earlier supervisor of this boot knew about a model.
    pub(super) fn recall(&mut self, run: &Path, model: &Name) -> &Checkpoint {
        self.checkpoints.recall(run, model)
    }

    /// What [`Records::recall`] found for a model.
    pub(super) fn before(&self, model: &Name) -> Option<&Checkpoint> {
        self.checkpoints.before(model)
    }

    /// `counts` of this supervisor plus those of earlier ones in this boot.
    pub(super) fn since_boot(&self, model: &Name, counts: Counts) -> Counts {
        match self.checkpoints.before(model) {
            Some(before) => counts.after(&before.counts),
            None => counts,
        }
    }

    /// Writes checkpoints that have changed in more than counters; with `counters`, all that have changed.
    pub(super) fn save(&mut self, run: &Path, now: Vec<(Name, Checkpoint)>, counters: bool) {
        self.checkpoints.save(run, now, counters);
    }

    /// Removes all files of a model that is no longer in the registry.
    pub(super) fn forget_model(&mut self, run: &Path, model: &Name) {
        self.checkpoints.forget(model);
        let forgotten =
            record::forget_model(run, model).and_then(|()| record::remove(&checkpoint::file(run, model)));
        if let Err(error) = forgotten {
            self.note(Note::of(model, "record_problem", error.to_string()));
        }
    }

    /// Duplicates the lock, for an exec step to hold until its record is written.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub(super) fn share_lock(&self) -> io::Result<File> {
        self.lock.share()
    }
}
