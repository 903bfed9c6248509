//! What is on disk and outlives this process: the history, what the next supervisor of this boot shall know of each
//! model, the lock.

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

/// An event for the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    model: Option<Name>,
    kind: &'static str,
    text: String,
    hint: Option<String>,
}

impl Note {
    /// Of the supervisor itself. `kind`: one word; `text`: one sentence.
    pub(super) fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self { model: None, kind, text: text.into(), hint: None }
    }

    pub(super) fn of(model: &Name, kind: &'static str, text: impl Into<String>) -> Self {
        Self { model: Some(model.clone()), ..Self::new(kind, text) }
    }

    /// What to do about it.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// What one supervisor writes. Only the loop has it.
pub(crate) struct Records {
    journal: Journal,
    /// How often each kind of event was noted, by model.
    noted: Noted,
    followers: Vec<mpsc::Sender<EventRecord>>,
    /// Noted since [`Records::fresh`] was last asked.
    fresh: Vec<EventRecord>,
    checkpoints: Checkpoints,
    /// Held for as long as this is there.
    lock: Lock,
}

impl Records {
    /// Goes on with the history in `state`. `boot_id`: of this boot.
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

    /// Writes into the history, the log, and to those who follow.
    pub(super) fn note(&mut self, note: Note) {
        let Note { model, kind, text, hint } = note;
        let model = model.as_deref();
        tracing::info!(model, kind, "{text}");
        *self.noted.entry((model.map(str::to_owned), kind.to_owned())).or_default() += 1;
        let record = self.journal.note(SystemTime::now(), model, kind, &text, hint.as_deref());
        // A follower that fell behind or left is dropped: it asks again from its last number.
        self.followers.retain(|follower| follower.try_send(record.clone()).is_ok());
        self.fresh.push(record);
    }

    /// What was noted since this was last asked.
    pub(super) fn fresh(&mut self) -> Vec<EventRecord> {
        std::mem::take(&mut self.fresh)
    }

    /// Sends every event from now on.
    pub(super) fn follow(&mut self, follower: mpsc::Sender<EventRecord>) {
        // Those that left are noticed at the next event, which may be far away.
        self.followers.retain(|follower| !follower.is_closed());
        self.followers.push(follower);
    }

    /// See [`Journal::after`].
    pub(super) fn after(&self, after: Option<u64>, limit: usize) -> Vec<EventRecord> {
        self.journal.after(after, limit)
    }

    /// How often each kind of event was noted, by model.
    pub(super) fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Writes events that could not be written before.
    pub(super) fn try_again(&mut self) {
        self.journal.try_again();
    }

    /// Why the last event was not written, if it was not.
    pub(super) fn journal_problem(&self) -> Option<&str> {
        self.journal.problem()
    }

    /// Why a checkpoint was not written, if one was not.
    pub(super) fn checkpoint_problem(&self) -> Option<&str> {
        self.checkpoints.problem()
    }

    /// Of which boot checkpoints are.
    pub(super) fn boot_id(&self) -> &str {
        self.checkpoints.boot_id()
    }

    /// What an earlier supervisor of this boot knew of a model.
    pub(super) fn recall(&mut self, run: &Path, model: &Name) -> &Checkpoint {
        self.checkpoints.recall(run, model)
    }

    /// As it was recalled.
    pub(super) fn before(&self, model: &Name) -> Option<&Checkpoint> {
        self.checkpoints.before(model)
    }

    /// What was counted in this boot: by earlier supervisors, and by this one.
    pub(super) fn since_boot(&self, model: &Name, counts: Counts) -> Counts {
        match self.checkpoints.before(model) {
            Some(before) => counts.after(&before.counts),
            None => counts,
        }
    }

    /// Writes what has changed in the models' lives; with `counters`, also what was only counted.
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

    /// A further descriptor of the lock, for an exec step to hold until its record is there.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub(super) fn share_lock(&self) -> io::Result<File> {
        self.lock.share()
    }
}
