//! What is learned about models and outlives a boot: how long they take to load, and their real footprints.
//! [`crate::backend::assess`] reads the footprints from the same file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::lifecycle::{Generation, Name};
use crate::memory::learn;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Document {
    /// Seconds from spawn to the first token in the last load, by model; adopted runs do not count.
    #[serde(default)]
    load_seconds: BTreeMap<String, f64>,
    #[serde(flatten)]
    footprints: learn::Store,
}

/// The learned values and their file, `<state>/learned.json`.
#[derive(Debug)]
pub(super) struct Learned {
    file: PathBuf,
    document: Document,
    problem: Option<String>,
    /// The last run whose load was counted, by model.
    counted: BTreeMap<Name, Generation>,
}

impl Learned {
    /// Reads the values. A damaged or newer file is set aside, and the reason returned.
    pub(super) fn open(state: &Path) -> (Self, Option<String>) {
        let file = state.join("learned.json");
        let (mut document, problem) = match read(&file) {
            Ok(document) => (document, None),
            Err(problem) => (Document::default(), Some(problem)),
        };
        document.footprints.schema = learn::SCHEMA;
        (Self { file, document, problem: None, counted: BTreeMap::new() }, problem)
    }

    /// Records the load time of a run, once per run.
    pub(super) fn loaded(&mut self, model: &Name, generation: Generation, took: Duration) {
        if self.counted.insert(model.clone(), generation) == Some(generation) {
            return;
        }
        self.document.load_seconds.insert(model.to_string(), took.as_secs_f64());
        self.save();
    }

    /// Retries a write that failed.
    pub(super) fn try_again(&mut self) {
        if self.problem.is_some() {
            self.save();
        }
    }

    fn save(&mut self) {
        self.problem = self.write().err().map(|error| format!("learned values cannot be written: {error}"));
    }

    /// Why the last write failed; `None`: it did not.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// How long the last load of this model took.
    pub(super) fn load_time(&self, model: &Name) -> Option<Duration> {
        self.document
            .load_seconds
            .get(&**model)
            .and_then(|seconds| Duration::try_from_secs_f64(*seconds).ok())
    }

    /// The highest footprints of runs with this key.
    pub(super) fn footprints(&self, key: &str) -> Option<&learn::Learned> {
        self.document.footprints.get(key)
    }

    /// Records the footprints of a run. Written if one of them rises by more than one percent.
    pub(super) fn shown(&mut self, key: &str, seen: learn::Learned) {
        let before = self.document.footprints.get(key).copied();
        self.document.footprints.observe(key, seen);
        let after = self.document.footprints.get(key).copied();
        if before.zip(after).is_none_or(|(before, after)| news(before, after)) {
            self.save();
        }
    }

    fn write(&self) -> io::Result<()> {
        crate::durable::replace(&self.file, &serde_json::to_vec_pretty(&self.document)?)
    }
}

/// Whether a footprint is new or has risen by more than one percent; less is not worth a write.
fn news(before: learn::Learned, after: learn::Learned) -> bool {
    [(before.idle, after.idle), (before.resident, after.resident), (before.peak, after.peak)].into_iter().any(
        |(before, after)| match (before, after) {
            (Some(before), Some(after)) => after.0 > before.0 + before.0 / 100,
            (before, after) => before != after,
        },
    )
}

fn read(file: &Path) -> Result<Document, String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Document::default()),
        Err(error) => return Err(format!("learned values cannot be read: {error}")),
    };
    let why = match serde_json::from_str::<Document>(&text) {
        Ok(document) if document.footprints.schema == learn::SCHEMA => return Ok(document),
        Ok(document) => format!("it has version {}", document.footprints.schema),
        Err(error) => error.to_string(),
    };
    let aside = file.with_extension("json.damaged");
    let moved = match fs::rename(file, &aside) {
        Ok(()) => format!("set aside as {}", aside.display()),
        Err(error) => format!("and cannot be set aside: {error}"),
    };
    Err(format!("{} cannot be used ({why}), {moved}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_times_outlive_the_supervisor_and_each_run_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let name = Name::from("32b");
        let (mut learned, problem) = Learned::open(folder.path());
        assert_eq!((problem, learned.load_time(&name)), (None, None));
        learned.loaded(&name, Generation(1), Duration::from_secs(9));
        learned.loaded(&name, Generation(1), Duration::from_secs(99));
        assert_eq!(Learned::open(folder.path()).0.load_time(&name), Some(Duration::from_secs(9)));
    }

    #[test]
    fn version_1_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let old = include_str!("../../../tests/fixtures/state-v1/learned.json");
        std::fs::write(folder.path().join("learned.json"), old).unwrap();
        let (learned, problem) = Learned::open(folder.path());
        assert_eq!(problem, None);
        assert_eq!(learned.load_time(&Name::from("32b")), Some(Duration::from_millis(41_500)));
    }

    #[test]
    fn a_damaged_or_newer_file_is_set_aside_and_reported() {
        for text in [
            "{\"schema\":1,\"load_sec",
            "{\"schema\":99,\"load_seconds\":{}}",
            "{\"schema\":1,\"load_seconds\":{\"a\":-1}} x",
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("learned.json"), text).unwrap();
            let (learned, problem) = Learned::open(folder.path());
            assert!(problem.unwrap().contains("set aside"), "{text}");
            assert_eq!(learned.load_time(&Name::from("a")), None);
            assert_eq!(std::fs::read_to_string(folder.path().join("learned.json.damaged")).unwrap(), text);
        }
    }
}
