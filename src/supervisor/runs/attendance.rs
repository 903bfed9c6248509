//! What runs beside a backend: the probe, the watch for its end.

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

/// What runs beside a backend; ends when it is dropped.
pub(super) struct RunTasks {
    /// Of which run.
    pub generation: Generation,
    /// The launcher's secret.
    pub secret: Arc<str>,
    /// What it was started with.
    pub spec: Spec,
    /// How it differs from the registry in force, if it does.
    pub outdated: Option<String>,
    /// Look at it now.
    pub suspicion: Arc<Notify>,
    /// To the launcher.
    pub questions: mpsc::Sender<Question>,
    /// What the probe sees.
    pub vitals: Arc<Vitals>,
    /// How far its end by itself is.
    pub idle: Idle,
    /// Probe, exit watch, drain.
    pub tasks: Vec<AbortHandle>,
    /// The launcher was asked to open a new log, and has not answered yet.
    pub reopening: bool,
}

impl Drop for RunTasks {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A run to be watched.
pub(super) struct Watched<'a> {
    pub name: &'a Name,
    pub identity: Identity,
    pub spec: Spec,
    /// What its log says from here on is of this run.
    pub log_start: logs::Mark,
    pub health: &'a Health,
    pub traffic: Arc<Traffic>,
    pub run: &'a Path,
    pub logs: &'a Path,
}

impl Watched<'_> {
    /// Starts what watches it: also one that was adopted.
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
    /// Asks the launcher for something; nobody waits for its answer.
    pub(super) fn ask(&self, request: Request) {
        let (reply, _) = oneshot::channel();
        // A full queue means that it is asked already.
        let _ = self.questions.try_send((request, reply));
    }
}
