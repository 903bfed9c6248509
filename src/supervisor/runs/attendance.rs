//! The tasks that attend to a backend: its probe, and the watch for its end.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::exits::{self, LastWords};
use super::news::News;
use super::tools::Tools;
use crate::api::paths::link_path;
use crate::backend::link::Request;
use crate::backend::logs;
use crate::backend::probe::{Probe, Question, Vitals};
use crate::backend::spec::Spec;
use crate::gate::Traffic;
use crate::host::Identity;
use crate::lifecycle::{Event, Generation, Idle, Name};
use crate::registry::Health;
use crate::supervisor::records::log_file;

/// The tasks of one run and what they share; dropping it ends them.
pub(super) struct RunTasks {
    pub generation: Generation,
    pub secret: Arc<str>,
    pub spec: Spec,
    /// How it differs from what the registry would start now; `None`: not at all.
    pub outdated: Option<String>,
    /// Notified to have the probe check the backend at once.
    pub suspicion: Arc<Notify>,
    pub questions: mpsc::Sender<Question>,
    /// Health as the probe sees it.
    pub vitals: Arc<Vitals>,
    /// Whether a stop for lack of use was announced.
    pub idle: Idle,
    /// Probe, exit watch, drain and log rotation.
    pub tasks: Vec<AbortHandle>,
    /// Whether the launcher was asked to open a new log and has not answered yet.
    pub reopening: bool,
}

impl Drop for RunTasks {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A run whose tasks are to be started.
pub(super) struct Watched<'a> {
    pub name: &'a Name,
    pub identity: Identity,
    pub spec: Spec,
    /// Where the output of this run starts in its log.
    pub log_start: logs::Mark,
    pub health: &'a Health,
    pub traffic: Arc<Traffic>,
    pub run: &'a Path,
    pub logs: &'a Path,
}

impl Watched<'_> {
    /// Starts the tasks of a new or adopted run.
    pub(super) fn attend(self, tools: &Tools) -> RunTasks {
        let Tools { host, report, pace, .. } = tools;
        let Watched { name, identity, spec, log_start, health, traffic, run, logs } = self;
        let generation = Generation(spec.generation);
        let exit = exits::watch(host.clone(), identity);
        let (questions, asked) = mpsc::channel(8);
        let (suspicion, vitals) = (Arc::new(Notify::new()), Arc::new(Vitals::default()));
        let (model, findings) = (name.clone(), report.clone());
        let probe = Probe {
            host: host.clone(),
            identity,
            generation: generation.0,
            link: link_path(run, name),
            secret: spec.secret.clone(),
            health: health.clone(),
            activity: Box::new(move || traffic.progress()),
            findings: Box::new(move |signed| {
                findings(News::Event(Event::Of { model: model.clone(), generation, signed }));
            }),
            suspicion: suspicion.clone(),
            questions: asked,
            pace: pace.clone(),
            vitals: vitals.clone(),
        };
        let last_words = LastWords {
            host: host.clone(),
            identity,
            generation,
            log: log_file(logs, name),
            log_start,
            run: run.to_owned(),
            spec: spec.clone(),
        };
        let (model, report) = (name.clone(), report.clone());
        let end = tokio::spawn(async move {
            let signed = last_words.wait(exit).await;
            report(News::Event(Event::Of { model, generation, signed }));
        });
        RunTasks {
            generation,
            secret: spec.secret.as_str().into(),
            spec,
            outdated: None,
            suspicion,
            questions,
            vitals,
            idle: Idle::default(),
            tasks: vec![tokio::spawn(probe.run()).abort_handle(), end.abort_handle()],
            reopening: false,
        }
    }
}

impl RunTasks {
    /// Sends a request to the launcher without waiting for the answer.
    pub(super) fn ask(&self, request: Request) {
        let (reply, _) = oneshot::channel();
        // A full queue means that such a request is already waiting.
        let _ = self.questions.try_send((request, reply));
    }
}
