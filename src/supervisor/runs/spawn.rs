//! Starts the process of a run.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::api::paths::link_path;
use crate::backend::launch::{self, Launch};
use crate::backend::spec::Spec;
use crate::backend::{exec, logs, record, weights};
use crate::fault;
use crate::host::Identity;
use crate::lifecycle::{Failure, FailureKind, Generation, Name};
use crate::registry::{Model, Registry};
use crate::supervisor::capacity::{Demand, Plan, prepare};
use crate::supervisor::records::log_file;
use crate::units::Bytes;

/// What a run is started from.
pub(super) struct Order<'a> {
    pub registry: &'a Registry,
    pub model: &'a Model,
    pub binary: &'a Path,
    /// The plan for the run; `None`: the registry's bounds apply.
    pub demand: Option<&'a Demand>,
    pub generation: Generation,
    pub reserved: Bytes,
}

impl Order<'_> {
    /// The spec of a run of this model, by the registry.
    ///
    /// # Errors
    /// Something that a start needs is missing.
    pub(super) fn spec(&self, secret: String) -> Result<Spec, Failure> {
        let Self { registry, model, binary, demand, generation, reserved } = *self;
        let prepared = prepare(registry, model)?;
        // Admission made the plan in the same step; without one, the registry's bounds apply.
        let mut limits = demand.and_then(Demand::plan).map(Plan::limits).unwrap_or_default();
        limits.prompt_store = model.memory.prompt_store;
        let paths = &registry.paths;
        let launch = Launch {
            model,
            served: &prepared.served,
            draft: weights::draft(model),
            environment: &registry.agent.environment,
            python: &prepared.python,
            binary,
            generation: generation.0,
            reserved,
            limits: &limits,
            run: &paths.run,
            state: &paths.state,
            link: link_path(&paths.run, &model.name),
            log: log_file(&paths.logs, &model.name),
            cwd: &paths.root,
            secret,
        };
        Ok(launch.spec(|name| std::env::var(name).ok()))
    }

    /// How a live run differs from what the registry would start now; the outer `None`: not known, because something that a
    /// start needs is missing.
    pub(super) fn difference(&self, started: &Spec) -> Option<Option<String>> {
        match self.spec(String::new()) {
            Ok(wanted) => Some(launch::difference(started, &wanted)),
            // The new files are missing, but the difference is known all the same.
            Err(missing)
                if missing.kind == FailureKind::FilesMissing
                    && self.model.source.to_string() != started.repo =>
            {
                Some(Some(format!("{} → {}", started.repo, self.model.source)))
            }
            Err(_) => None,
        }
    }

    /// Starts the process. `lock`: held by it until its record is written.
    ///
    /// # Errors
    /// Something that a start needs is missing, or the system refused.
    pub(super) fn spawn(&self, name: &Name, lock: io::Result<File>) -> Result<Spawned, Failure> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| spawn_failure(&what, &error)
        };
        let lock = lock.map_err(failed("cannot share the lock"))?;
        let secret = launch::secret().map_err(failed("no randomness for its secret"))?;
        let spec = self.spec(secret)?;
        if let Some(instead) = weights::instead(&self.model.source) {
            tracing::warn!(model = &**name, "{instead}");
        }
        let run = &self.registry.paths.run;
        logs::rotate(&spec.log).map_err(failed("cannot rotate its log"))?;
        record::forget(run, name).map_err(failed("cannot clear its record"))?;
        fault::point("spawn cleared");
        let file = record::write_spec(run, &spec).map_err(failed("cannot write its spec"))?;
        fault::point("spawn written");
        // Before the spawn, since the process may log and end before we get to it.
        let log_start = logs::mark(&spec.log);
        let identity = exec::spawn(self.binary, &file, lock).map_err(failed("cannot make a process"))?;
        fault::point("spawn made");
        Ok(Spawned { identity, spec, log_start })
    }
}

pub(super) struct Spawned {
    pub identity: Identity,
    pub spec: Spec,
    /// Where the output of this run starts in its log.
    pub log_start: logs::Mark,
}

/// Explains why the system refused to start a process.
fn spawn_failure(what: &str, error: &io::Error) -> Failure {
    let failure = Failure::new(FailureKind::SpawnFailed, format!("{what}: {error}"));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            waits(failure).hint("free disk space; the start is retried")
        }
        io::ErrorKind::PermissionDenied => failure.hint("mlxctl doctor names the file"),
        _ if error.raw_os_error() == Some(libc::EAGAIN) => {
            waits(failure).hint("the system's limit of processes is reached; the start is retried")
        }
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            waits(failure).hint("the limit of open files is reached; the start is retried")
        }
        _ => failure,
    }
}

/// Marks a failure as not the model's fault: the start is retried and does not count towards the quarantine.
fn waits(failure: Failure) -> Failure {
    Failure { kind: FailureKind::NotPrepared, ..failure }
}
